"""Channel-wise decomposition of plain convolutional networks: IST's rule (Yuan et al., PVLDB 2022) for convolutions.

The channels of every convolution and the neurons of the classifier are dealt; input channels and classes are whole. A
subnetwork holds 1/S^2 of every kernel between two hidden layers.
"""

import itertools

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.filters import check_norm
from ist_jax.models.vgg import VGG


def channel_rules(convolutions: int, hidden: int) -> Rules:
    """Groups conv_0, ..., hidden_0, ...: every layer's outputs, which are the next one's inputs."""
    groups = [
        None,
        *(f"conv_{i}" for i in range(convolutions)),
        *(f"hidden_{i}" for i in range(hidden)),
    ]
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
    """The decomposition of `model`, a `VGG`; arguments and errors as of `ist_jax.decompositions.filters`."""
    check_norm(model.norm)
    widths = [width for width in model.channels if width]
    sizes = {f"conv_{i}": width for i, width in enumerate(widths)} | {
        f"hidden_{i}": w for i, w in enumerate(model.hidden)
    }

    def narrowed(times: int) -> VGG:
        count = lambda width: times * -(-width // num_subnets)
        return model.clone(
            channels=tuple(map(count, model.channels)), hidden=tuple(map(count, model.hidden))
        )

    return decompose(
        channel_rules(len(widths), len(model.hidden)),
        sizes,
        num_subnets=num_subnets,
        full=model,
        subnet=narrowed(1),
        padded=narrowed(num_subnets),
        example=example,
        partition_name=partition,
        pad_safe=True,
    )
