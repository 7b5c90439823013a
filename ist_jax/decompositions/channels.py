"""Channel-wise decomposition of plain convolutional networks.

IST's rule (Yuan et al., PVLDB 2022), applied to convolutions: the channels of every convolution and
the neurons of the classifier are split. Input channels and classes are shared. A subnetwork holds
1/S^2 of every kernel between two hidden layers.
"""

import itertools

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.filters import check_norm
from ist_jax.models.vgg import VGG


def rules(num_convolutions: int, num_hidden: int) -> Rules:
    """The rules of the groups conv_0, ..., hidden_0, ...: the outputs of the layers."""
    convolutions = [f"conv_{i}" for i in range(num_convolutions)]
    groups = [None, *convolutions, *(f"hidden_{i}" for i in range(num_hidden))]
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for before, group in itertools.pairwise(groups):
        kind, number = group.split("_")
        norm = f"conv_norm_{number}" if kind == "conv" else f"norm_{number}"
        space = (None, None) if kind == "conv" else ()
        table += [(f"{group}/kernel", (*space, before, group)), (f"{norm}/.*", (group,))]
    return (*table, (r"output/kernel", (groups[-1], None)))


def channels(
    model: VGG,
    example: jax.Array | jax.ShapeDtypeStruct,
    *,
    num_subnets: int,
    partition: str = "balanced",
) -> Decomposition:
    """The decomposition of `model`.

    Args:
      model: the full network.
      example: one image, shape (1, height, width, channels).
      num_subnets: S.
      partition: see `ist_jax.core.partition`.

    Raises:
      ValueError: the norm is not 'batch', or a layer is narrower than S.
    """
    check_norm(model.norm)
    widths = [width for width in model.channels if width]
    sizes = {f"conv_{i}": width for i, width in enumerate(widths)}
    sizes |= {f"hidden_{i}": width for i, width in enumerate(model.hidden)}
    return decompose(
        rules(len(widths), len(model.hidden)),
        sizes,
        num_subnets=num_subnets,
        full=model,
        subnet=_resized(model, num_subnets, 1),
        padded=_resized(model, num_subnets, num_subnets),
        example=example,
        partition_name=partition,
        pad_safe=True,
        checks=False,
    )


def _resized(model: VGG, num_subnets: int, times: int) -> VGG:
    """The model with `times * ceil(width / S)` units in every layer."""
    resize = lambda widths: tuple(times * -(-width // num_subnets) for width in widths)
    return model.clone(channels=resize(model.channels), hidden=resize(model.hidden))
