"""Filter-wise decomposition of residual networks (LoFT; Wang et al., AISTATS 2023, section 3).

Inside a block, the filters of the first convolution are split, with the input channels of the
second. The input and output channels of blocks are shared; so are first blocks. The IST paper does
not say how it splits its ResNet18. This rule stands in for it.
"""

from collections.abc import Mapping

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.models.residual import expansion, is_preact
from ist_jax.models.resnet import ResNet


def check_norm(norm: str) -> None:
    """Raises ValueError if the norm runs over several channels."""
    if norm != "batch":
        raise ValueError(
            f"channels are split one by one, and norm={norm!r} runs over several: use norm='batch'"
        )


def rules(model: ResNet) -> Rules:
    """The rules, with the filters of each further block as a group: 'stage_1_block_1', ..."""
    norm = "norm2" if is_preact(model.block) else "norm1"
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for group in _group_sizes(model):
        table += [
            (f"{group}/conv1/kernel", (None, None, None, group)),
            (f"{group}/{norm}/.*", (group,)),
            (f"{group}/conv2/kernel", (None, None, group, None)),
        ]
    return (*table, (r".*", None))


def _group_sizes(model: ResNet) -> Mapping[str, int]:
    return {
        f"stage_{stage}_block_{i}": model.width * 2 ** (stage - 1)
        for stage, count in enumerate(model.stage_sizes, 1)
        for i in range(1, count)
    }


def filters(
    model: ResNet,
    example: jax.Array | jax.ShapeDtypeStruct,
    *,
    num_subnets: int,
    partition: str = "balanced",
) -> Decomposition:
    """The decomposition of `model`, a `ResNet` of basic blocks.

    Args:
      model: the full network. Its blocks become unrolled, since each has its own partition.
      example: one image, shape (1, height, width, channels).
      num_subnets: S.
      partition: see `ist_jax.core.partition`.

    Raises:
      ValueError: blocks are bottlenecks, the norm is not 'batch', or a stage is narrower than S.
    """
    check_norm(model.norm)
    if expansion(model.block) > 1:
        raise ValueError(
            "filters are split between a block's two convolutions, "
            f"and {model.block!r} has three: use basic blocks"
        )
    full = model.clone(unrolled=True)
    slots = [-(-(model.width * 2**i) // num_subnets) for i in range(len(model.stage_sizes))]
    return decompose(
        rules(model),
        _group_sizes(model),
        num_subnets=num_subnets,
        full=full,
        subnet=full.clone(inner=tuple(slots)),
        padded=full.clone(inner=tuple(num_subnets * count for count in slots)),
        example=example,
        partition_name=partition,
        pad_safe=True,
        checks=False,
    )
