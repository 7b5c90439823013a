"""Block-wise decomposition of residual networks (ResIST; Dun et al., UAI 2022, section 3).

The further blocks of stage 3 (or of `stages`) are dealt to the subnetworks, which have the others as the identity: they are
neither stored nor computed. All else is shared: the stem, other stages, every stage's first block, the classifier.
"""

import math
from collections.abc import Sequence

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.models.residual import is_preact
from ist_jax.models.resnet import ResNet


def rules(stages: Sequence[int]) -> Rules:
    """The rules of a network whose further blocks in `stages` are the groups 'stage_3', ...: their leaves' first axis."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for stage in stages:
        group = f"stage_{stage}"
        table += [
            (rf"{group}_rest/.*/kernel", (group, None, None, None, None)),
            (rf"{group}_rest/.*/(scale|bias)", (group, None)),
        ]
    return (*table, (r".*", None))


def branch_scale(scaling: str, share: float) -> float:
    """Factor on residual branches in the full model, of whose blocks a subnetwork has a `share`."""
    return {"none": 1.0, "keep": share, "sqrt": math.sqrt(share)}[scaling]


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
    """The decomposition of `model`, a `ResNet` as it is before it is divided.

    Args:
      model: the full network, its blocks a loop (`unrolled` is False) where there are `stages`.
      example: one image, shape (1, height, width, channels).
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      stages: counted from 1; their further blocks are dealt. () for a model that is not divided.
      min_blocks: of every stage, that a subnetwork holds at least; above blocks / S subnetworks overlap.
      scaling: of the dealt blocks' branches in the full model, which has S times as many as a subnetwork: 'keep' (the expected
        share of a subnetwork's, 1/S without overlap; the paper), 'sqrt' (its root) or 'none'.

    Raises:
      ValueError: a stage that is none, or has fewer further blocks than S or than `min_blocks`; post-activation blocks that S
        does not divide.
    """
    if (model.unrolled and stages) or not set(stages) <= set(range(1, len(model.stage_sizes) + 1)):
        raise ValueError(
            f"stages are of 1 to {len(model.stage_sizes)} and not unrolled, not {tuple(stages)} of {model}"
        )
    sizes = {f"stage_{stage}": model.stage_sizes[stage - 1] - 1 for stage in stages}

    def with_blocks(model: ResNet, count: dict[str, int]) -> ResNet:
        number = lambda stage, size: count[f"stage_{stage}"] + 1 if stage in stages else size
        return model.clone(
            stage_sizes=tuple(
                number(stage, size) for stage, size in enumerate(model.stage_sizes, 1)
            )
        )

    homes = {group: -(-size // num_subnets) for group, size in sizes.items()}
    overlaps = lambda group: min_blocks > sizes[group] // num_subnets
    slots = {group: max(home, min_blocks) for group, home in homes.items()}
    share = {
        group: slots[group] / size if overlaps(group) else 1 / num_subnets
        for group, size in sizes.items()
    }
    scales = [
        branch_scale(scaling, share.get(f"stage_{i}", 1.0))
        for i in range(1, len(model.stage_sizes) + 1)
    ]
    full = model.clone(residual_scales=tuple(scales))
    return decompose(
        rules(stages),
        sizes,
        num_subnets=num_subnets,
        full=full,
        subnet=with_blocks(model, slots),
        example=example,
        partition_name=partition,
        min_units=min_blocks,
        padding="relu after the sum trains the bias of a padded block; use pre-activation blocks",
        pad_safe=is_preact(model.block),
        ordered=True,
    )
