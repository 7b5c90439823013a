"""Checks that a full model, whose sums have more terms, computes what equal subnetworks would."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.model import Model
from ist_jax.core.scaled import ScaledModel, summed_groups
from ist_jax.core.subnet import extract, label_axes
from ist_jax.core.task import Task
from ist_jax.core.trees import tree_bytes
from ist_jax.core.types import Array, Batch, Indices, Params
from ist_jax.methods.local_batch import local_batch

TOLERANCE = 0.1  # of the outputs' deviation
UNEVEN_TOLERANCE = 0.4  # if some units have one copy more than others
LARGEST = 1 << 30  # bytes of a full model that is compared: one device holds it meanwhile
CHANGE = 0.01  # of the outputs' deviation, by a factor on one group's sums; about 0 with a norm


def scale_warning(decomposition: Decomposition, task: Task, batch: Batch) -> str:
    """A warning if the full model would not compute what S equal subnetworks do; '' otherwise.

    The check gives a subnetwork random units, and the full model S copies of them. With a norm
    after every sum over units, or a factor of 1/S on it, both have the same outputs. A sum without
    either is S times as large in the full model. Models above `LARGEST` are not compared.

    Args:
      decomposition: of at least two subnetworks, with groups.
      task: its `predict` gives the outputs.
      batch: of the task's training data, at least two examples.
    """
    if tree_bytes(jax.eval_shape(decomposition.init, jax.random.key(0))) > LARGEST:
        return ""
    sizes, slots = decomposition.partition.sizes, decomposition.partition.slots
    is_even = all(size % slots[group] == 0 for group, size in sizes.items())
    tolerance = TOLERANCE if is_even else UNEVEN_TOLERANCE
    gap, _ = _gaps(decomposition, task, batch, [])
    if not gap > tolerance:
        return ""
    of_group = _factors_by_group(decomposition)
    _, changes = _gaps(decomposition, task, batch, list(of_group.values()))
    groups = [group for group, change in zip(of_group, changes) if change > CHANGE]
    return _message(decomposition.num_subnets, float(gap), groups)


def _message(num_subnets: int, gap: float, groups: list[str]) -> str:
    of_groups = f" of {groups}" if groups else ""
    return (
        f"the full model sums over num_subnets={num_subnets} times as many units{of_groups} as a "
        "subnetwork, and no norm or factor makes up for it (its outputs differ from those of equal "
        f"subnetworks by {gap:.0%}): pass scale='keep' to decompose, which multiplies these sums "
        "by 1/num_subnets, or normalise them (scale='none' turns this warning off)"
    )


def _factors_by_group(decomposition: Decomposition) -> dict[str, dict[str, float]]:
    """group -> the factors of the parameters that sum over it."""
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    try:
        summed = summed_groups(decomposition.full, shapes, decomposition.example, labels)
    except ValueError:  # a factor would change more than the sums
        return {}
    return {
        group: {name: 1 / decomposition.num_subnets for name in summed if group in summed[name]}
        for group in decomposition.partition.sizes
    }


def _gaps(
    decomposition: Decomposition, task: Task, batch: Batch, factors: Sequence[Mapping[str, float]]
) -> tuple[Array, list[Array]]:
    """(gap between full model and subnetwork, change of the full model by each of `factors`)."""
    sizes, slots = decomposition.partition.sizes, decomposition.partition.slots
    units = {group: jnp.arange(count) for group, count in slots.items()}
    copies = {group: jnp.arange(size) % slots[group] for group, size in sizes.items()}

    def compute(params: Params, batch: Batch) -> tuple[Array, list[Array]]:
        labels = label_axes(params, decomposition.rules, sizes)

        def outputs(model: Model, units: Indices) -> Any:
            local = local_batch(decomposition, batch, units)
            return task.predict(model, extract(params, labels, units), local)

        full = outputs(decomposition.full, copies)
        scaled = [outputs(ScaledModel(decomposition.full, each), copies) for each in factors]
        gap = _gap(full, outputs(decomposition.subnet, units))
        return gap, [_gap(each, full) for each in scaled]

    return jax.jit(compute)(_random_params(decomposition), batch)


def _random_params(decomposition: Decomposition) -> Params:
    """Parameters of the full model: random kernels of variance 1 / fan-in, and vectors of 0.5.

    The model's initialisation may have kernels of zeros, which would hide their sums.
    """
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.full(leaf.shape, 0.5, leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return (rng.standard_normal(leaf.shape, np.float32) / fan_in**0.5).astype(leaf.dtype)

    return jax.tree.map(drawn, jax.eval_shape(decomposition.init, jax.random.key(0)))


def _gap(actual: Any, expected: Any) -> Array:
    """The distance of outputs, relative to the expected ones' deviation over the examples.

    0 if no outputs can be compared.
    """
    pairs = [
        (a.astype(jnp.float32), b.astype(jnp.float32))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected))
        if a.shape == b.shape and jnp.issubdtype(a.dtype, jnp.floating)  # outputs may be split
    ]
    if not pairs:
        return jnp.float32(0)
    distance = sum(((a - b) ** 2).sum() for a, b in pairs)
    deviation = sum(((b - b.mean(axis=0, keepdims=True)) ** 2).sum() for _, b in pairs)
    return jnp.sqrt(distance / deviation)
