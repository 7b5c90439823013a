"""Block-wise decomposition of residual networks (ResIST; Dun et al., UAI 2022, section 3).

The further blocks of stage 3 (or of `stages`) are split among the subnetworks. A block that a
subnetwork does not hold is the identity there: it is neither stored nor computed. Everything else
is shared: the stem, the other stages, the first block of each stage, and the classifier.
"""

from collections.abc import Mapping, Sequence

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.scaling import factor
from ist_jax.models.residual import is_preact
from ist_jax.models.resnet import ResNet


def rules(stages: Sequence[int]) -> Rules:
    """The rules of a network whose further blocks of each stage in `stages` are a group.

    Groups are called 'stage_3', ... Blocks are the first axis of their parameters.
    """
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for stage in stages:
        group = f"stage_{stage}"
        table += [
            (rf"{group}_rest/.*/kernel", (group, None, None, None, None)),
            (rf"{group}_rest/.*/(scale|bias)", (group, None)),
        ]
    return (*table, (r".*", None))


def blocks(
    model: ResNet,
    example: jax.Array | jax.ShapeDtypeStruct,
    *,
    num_subnets: int,
    partition: str = "balanced",
    stages: Sequence[int] = (3,),
    min_blocks: int = 0,
    scaling: str = "keep",
) -> Decomposition:
    """The decomposition of `model`, a `ResNet` without residual scales.

    Args:
      model: the full network. If `stages` is not empty, its blocks must not be unrolled.
      example: one image, shape (1, height, width, channels).
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      stages: the stages, counted from 1, whose further blocks are split; (): none.
      min_blocks: the least number of blocks of each of these stages in a subnetwork. If it is above
        blocks / S, subnetworks overlap.
      scaling: of the branches of split blocks in the full model, which has S times as many as a
        subnetwork: 'keep' (times the expected share of a subnetwork, 1/S without overlap, as in the
        paper), 'sqrt' (times the root of the share) or 'none'.

    Raises:
      ValueError: a stage does not exist or has fewer further blocks than S or `min_blocks`, or S
        does not divide the number of post-activation blocks.
    """
    _check_stages(model, stages)
    sizes = {f"stage_{stage}": model.stage_sizes[stage - 1] - 1 for stage in stages}
    slots = {group: max(-(-size // num_subnets), min_blocks) for group, size in sizes.items()}
    share = {
        group: slots[group] / size if min_blocks > size // num_subnets else 1 / num_subnets
        for group, size in sizes.items()
    }
    shares = [share.get(f"stage_{i}", 1.0) for i in range(1, len(model.stage_sizes) + 1)]
    scales = tuple(factor(scaling, share) for share in shares)
    return decompose(
        rules(stages),
        sizes,
        num_subnets=num_subnets,
        full=model.clone(residual_scales=scales),
        subnet=_with_blocks(model, slots),
        example=example,
        partition_name=partition,
        min_units=min_blocks,
        padding_error=(
            "relu after the sum trains the bias of a padded block; use pre-activation blocks"
        ),
        pad_safe=is_preact(model.block),
        ordered=True,
        checks=False,
    )


def _check_stages(model: ResNet, stages: Sequence[int]) -> None:
    num_stages = len(model.stage_sizes)
    if not set(stages) <= set(range(1, num_stages + 1)):
        raise ValueError(f"stages are of 1 to {num_stages}, not {tuple(stages)}: leave others out")
    if model.unrolled and stages:
        raise ValueError(
            f"blocks of stages={tuple(stages)} are split along the axis of a loop, but the model "
            "is unrolled: use unrolled=False"
        )


def _with_blocks(model: ResNet, further: Mapping[str, int]) -> ResNet:
    """The model with `further[group]` further blocks in the stage of each group."""
    sizes = (
        further[f"stage_{stage}"] + 1 if f"stage_{stage}" in further else size
        for stage, size in enumerate(model.stage_sizes, 1)
    )
    return model.clone(stage_sizes=tuple(sizes))
