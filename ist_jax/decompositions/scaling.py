"""`decompose(scale=...)`: factors on the sums over units in the full model."""

import math
from collections.abc import Mapping

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.partition import Partition
from ist_jax.core.scaled import ScaledModel, summed_groups
from ist_jax.core.subnet import label_axes

Scale = str | Mapping[str, float]
SCALINGS = ("none", "keep", "sqrt")


def factor(scale: str, share: float) -> float:
    """The factor on sums over units in the full model; a subnetwork holds a `share` of the units.

    'none': 1. 'keep': the share, for units that are alike. 'sqrt': its square root, for independent
    units.

    Raises:
      ValueError: `scale` has another value.
    """
    if scale not in SCALINGS:
        raise ValueError(f"a scale is one of {SCALINGS}, not {scale!r}")
    return {"none": 1.0, "keep": share, "sqrt": math.sqrt(share)}[scale]


def with_scaled_sums(decomposition: Decomposition, scale: Scale) -> Decomposition:
    """The decomposition with factors on sums over groups in its full model; see `decompose`.

    Raises:
      ValueError: `scale` has an unknown value or group, or names a group that no parameter sums
        over.
    """
    factors = _factors(scale, decomposition.partition)
    if all(factor == 1 for factor in factors.values()):
        return decomposition
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    summed = summed_groups(decomposition.full, shapes, decomposition.example, labels)
    scaled_groups = {group for group, factor in factors.items() if factor != 1}
    if missing := sorted(scaled_groups - set().union(*summed.values())):
        raise ValueError(
            f"scale={scale!r} multiplies parameters that sum over a group, but none sums over "
            f"{missing}: scale these sums in `full`, and name the other groups, such as "
            f"scale={{{next(iter(factors))!r}: {1 / decomposition.num_subnets:.4g}}}"
        )
    leaf_factors = {
        name: math.prod(factors.get(group, 1.0) for group in groups)
        for name, groups in summed.items()
    }
    leaf_factors = {name: factor for name, factor in leaf_factors.items() if factor != 1}
    full, padded = decomposition.full, decomposition.padded
    return decomposition._replace(
        full=ScaledModel(full, leaf_factors),
        padded=None if padded is None else ScaledModel(padded, leaf_factors),
    )


def _factors(scale: Scale, partition: Partition) -> dict[str, float]:
    """group -> factor."""
    if isinstance(scale, str):
        return {group: factor(scale, _share(group, partition)) for group in partition.sizes}
    if unknown := sorted(set(scale) - set(partition.sizes)):
        raise ValueError(f"scale must name groups among {sorted(partition.sizes)}, not {unknown}")
    return dict(scale)


def _share(group: str, partition: Partition) -> float:
    """The expected share of a group's units that a subnetwork holds."""
    if group in partition.overlapping:
        return partition.slots[group] / partition.sizes[group]
    return 1 / partition.num_subnets
