"""Whether a full model computes what equal subnetworks would: its sums have more terms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.scaled import ScaledModel, summed_groups
from ist_jax.core.subnet import extract, label_axes
from ist_jax.core.task import Task
from ist_jax.core.types import Array, Batch, Params
from ist_jax.methods.local_batch import local_batch

TOLERANCE = 0.1  # of the outputs' deviation
UNEVEN_TOLERANCE = 0.4  # if some units have one copy more than others


def scale_warning(decomposition: Decomposition, task: Task, batch: Batch) -> str:
    """A warning if the full model would not compute what S equal subnetworks do; '' otherwise.

    A subnetwork has random units, and the full model has copies of them in all its places. With a
    norm after every sum over units, or a factor of 1/S on it, both have the same outputs. A sum
    without either is S times as large in the full model.

    Args:
      decomposition: of at least two subnetworks, with groups.
      task: its `predict` gives the outputs.
      batch: of the task's training data, at least two examples.
    """
    sizes, slots = decomposition.partition.sizes, decomposition.partition.slots
    is_even = all(size % slots[group] == 0 for group, size in sizes.items())
    tolerance = TOLERANCE if is_even else UNEVEN_TOLERANCE
    (gap,) = _gaps(decomposition, task, batch, [{}])
    if not gap > tolerance:
        return ""
    of_group = _factors_by_group(decomposition)
    gaps = _gaps(decomposition, task, batch, list(of_group.values()))
    groups = [group for group, scaled in zip(of_group, gaps) if abs(scaled - gap) > 0.01 * gap]
    return _text(decomposition.num_subnets, float(gap), groups)


def _text(num_subnets: int, gap: float, groups: list[str]) -> str:
    of_groups = f" of {groups}" if groups else ""
    return (
        "a full model computes what equal subnetworks would, and with random units its outputs "
        f"differ by {gap:.0%} of their deviation: it sums over num_subnets={num_subnets} times as "
        f"many units{of_groups} as a subnetwork; normalise these sums, or pass scale='keep' to "
        "decompose (scale='none' if they are meant to be so)"
    )


def _factors_by_group(decomposition: Decomposition) -> dict[str, dict[str, float]]:
    """group -> the factors of the parameters that sum over it."""
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    try:
        summed = summed_groups(decomposition.full, shapes, decomposition.example, labels)
    except ValueError:  # no factors can be told
        return {}
    return {
        group: {name: 1 / decomposition.num_subnets for name in summed if group in summed[name]}
        for group in decomposition.partition.sizes
    }


def _gaps(
    decomposition: Decomposition, task: Task, batch: Batch, factors: Sequence[Mapping[str, float]]
) -> list[Array]:
    """For each of the factors on parameters, how far the full model is from a subnetwork."""
    sizes, slots = decomposition.partition.sizes, decomposition.partition.slots
    units = {group: jnp.arange(count) for group, count in slots.items()}
    copies = {group: jnp.arange(size) % slots[group] for group, size in sizes.items()}

    def compute(params: Params, batch: Batch) -> list[Array]:
        labels = label_axes(params, decomposition.rules, sizes)
        of = lambda units: (
            extract(params, labels, units),
            local_batch(decomposition, batch, units),
        )
        expected = task.predict(decomposition.subnet, *of(units))
        scaled = [ScaledModel(decomposition.full, each) for each in factors]
        return [_gap(task.predict(model, *of(copies)), expected) for model in scaled]

    return jax.jit(compute)(_random_params(decomposition), batch)


def _random_params(decomposition: Decomposition) -> Params:
    """Parameters of the full model: random kernels of variance 1 / fan-in, and vectors of 0.5.

    An initialisation may have kernels of zeros, whose sums would not be seen.
    """
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.full(leaf.shape, 0.5, leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return (rng.standard_normal(leaf.shape, np.float32) / fan_in**0.5).astype(leaf.dtype)

    return jax.tree.map(drawn, jax.eval_shape(decomposition.init, jax.random.key(0)))


def _gap(actual: Any, expected: Any) -> Array:
    """The distance of outputs, relative to the expected ones' deviation over the examples."""
    pairs = [
        (a.astype(jnp.float32), b.astype(jnp.float32))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected))
        if a.shape == b.shape and jnp.issubdtype(a.dtype, jnp.floating)  # outputs may be split
    ]
    distance = sum(((a - b) ** 2).sum() for a, b in pairs)
    deviation = sum(((b - b.mean(axis=0, keepdims=True)) ** 2).sum() for _, b in pairs)
    return jnp.sqrt(distance / deviation)
