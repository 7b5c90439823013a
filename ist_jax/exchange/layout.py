"""Where the leaves rest between rounds, and which groups travel.

A leaf with one labelled axis, of a *travelling* group, rests with the subnetworks that hold its units: [S, ...], M
slots on its axis. A synchronisation sends its units straight from the old holder to the new one, once. Every other
labelled leaf rests at home, in original order along the axis of a *resident* group: its units go to a subnetwork and
come back. A leaf with two labelled axes has entries that no subnetwork holds, so one of its groups is resident.

A permuted network is the same function, so that the whole model is evaluated as its units lie.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ist_jax.core.partition import Partition, home_size
from ist_jax.core.subnet import Label, is_label, take
from ist_jax.core.types import Array, Indices


def travelling_axis(label: Label, partition: Partition) -> int | None:
    """The labelled axis of a leaf that rests with the holders of its units; None for leaves that do not."""
    if len(label.groups) == 1 and label.groups[0][1] in partition.travelling:
        return label.groups[0][0]
    return None


def home_axis(label: Label, partition: Partition) -> tuple[int, str]:
    """(axis, group) along which a labelled leaf that does not travel rests: its first resident group."""
    return next((axis, group) for axis, group in label.groups if group not in partition.travelling)


def _leaves(labels: Any, shapes: Any) -> list[tuple[Label, int]]:
    """(label, bytes) of every labelled leaf."""
    flat = jax.tree.leaves(labels, is_leaf=is_label)
    leaves = jax.tree.structure(labels, is_leaf=is_label).flatten_up_to(shapes)
    return [
        (label, leaf.size * leaf.dtype.itemsize)
        for label, leaf in zip(flat, leaves)
        if label.groups
    ]


def resident_groups(
    labels: Any, shapes: Any, kept: tuple[Any, Any] = ((), ()), overlapping: Iterable[str] = ()
) -> frozenset[str]:
    """The resident groups that make a synchronisation cheapest: a vertex cover of least bytes.

    Every leaf with several groups has a resident one. A leaf of one group is sent twice if that is resident, once if
    it travels; state of an outer optimizer over it is not sent, or once. A function of labels and sizes alone.

    Args:
      labels: of everything that goes to the subnetworks and back: parameters, carried optimizer state.
      shapes: its arrays or ShapeDtypeStructs.
      kept: (labels, shapes) of what never goes to the subnetworks: an outer optimizer's state.
      overlapping: groups whose units have several holders, which are resident whatever that costs.
    """
    exchanged, outer = _leaves(labels, shapes), _leaves(*kept)
    groups = sorted({group for label, _ in exchanged for _, group in label.groups})
    weight = dict.fromkeys(groups, 0)
    for sign, leaves in ((1, exchanged), (-1, outer)):
        for label, num_bytes in leaves:
            if len(label.groups) == 1:
                weight[label.groups[0][1]] += sign * num_bytes
    edges = {
        tuple(sorted(group for _, group in label.groups))
        for label, _ in exchanged
        if len(label.groups) > 1
    }
    forced = [group in set(overlapping) for group in groups]
    if not edges:
        return frozenset(
            group for group, always in zip(groups, forced) if always or weight[group] < 0
        )
    # among covers of equal bytes the smaller one, then the one of earlier names
    rank = len(groups) ** 2
    cost = [weight[group] * 2 * rank + rank + number for number, group in enumerate(groups)]
    member = np.array([[group in edge for group in groups] for edge in sorted(edges)], float)
    found = milp(
        cost,
        integrality=np.ones(len(groups)),
        bounds=Bounds(np.array(forced, float), 1),
        constraints=LinearConstraint(member, lb=1),
        options={"mip_rel_gap": 0},
    )
    return frozenset(group for group, chosen in zip(groups, found.x) if chosen > 0.5)


def settled(
    partition: Partition, labels: Any, shapes: Any, kept: tuple[Any, Any] = ((), ())
) -> Partition:
    """`partition` with its travelling groups chosen: all that can travel but `resident_groups`."""
    if partition.name != "balanced":
        return partition
    return partition.with_travelling(
        set(partition.sizes) - resident_groups(labels, shapes, kept, partition.overlapping)
    )


def positions(index_SxM: Array, size: int) -> Array:
    """int32[N]: where each unit lies, as s * M + slot."""
    flat = index_SxM.reshape(-1)
    return (
        jnp.full(size, flat.size, jnp.int32)
        .at[flat]
        .set(jnp.arange(flat.size, dtype=jnp.int32), mode="drop")
    )


def padded(leaf: Array, axis: int, length: int) -> Array:
    """`leaf` with zeros at the end of `axis`, which then has `length` entries."""
    return jnp.pad(
        leaf, [(0, length - leaf.shape[a] if a == axis else 0) for a in range(leaf.ndim)]
    )


def spread(leaf: Array, axis: int, num_subnets: int) -> Array:
    """[.., N, ..] in original order as [S, .., M, ..], every home with its own units, padded with zeros."""
    slots = home_size(leaf.shape[axis], num_subnets)
    whole = padded(leaf, axis, num_subnets * slots)
    split = whole.reshape(*leaf.shape[:axis], num_subnets, slots, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)


def gathered(leaf_S: Array, axis: int) -> Array:
    """[S, .., M, ..] as [.., S * M, ..]: the slots of all holders, one after another."""
    front = jnp.moveaxis(leaf_S, 0, axis)
    return front.reshape(*front.shape[:axis], -1, *front.shape[axis + 2 :])


def storage_order(partition: Partition, indices: Indices) -> Indices:
    """group -> int32[S * M]: the unit in every place of a group's axis in `Exchange.lying`, its size where none is.

    Travelling groups lie as their holders do; others in original order, padded at the end.
    """

    def units(group: str, size: int) -> Array:
        if group in partition.travelling:
            return indices[group].reshape(-1)
        padded = partition.num_subnets * home_size(size, partition.num_subnets)
        return jnp.minimum(jnp.arange(padded, dtype=jnp.int32), size)

    return {group: units(group, size) for group, size in partition.sizes.items()}


def in_order(
    leaf: Array, label: Label, shape: tuple[int, ...], partition: Partition, indices: Indices
) -> Array:
    """One leaf of a store in original order."""
    axis = travelling_axis(label, partition)
    if axis is None:
        return leaf[tuple(map(slice, shape))]
    group = label.groups[0][1]
    return take(gathered(leaf, axis), positions(indices[group], partition.sizes[group]), axis)


def as_it_lies(leaf: Array, label: Label, partition: Partition, indices: Indices) -> Array:
    """One leaf of a store for `Exchange.lying`. No axis that is sharded is permuted."""
    axis = travelling_axis(label, partition)
    if axis is not None:
        return gathered(leaf, axis)
    if not label.groups:
        return leaf
    resting, units = home_axis(label, partition)[0], storage_order(partition, indices)
    for axis, group in label.groups:
        leaf = (
            padded(leaf, axis, units[group].size)
            if axis == resting
            else take(leaf, units[group], axis)
        )
    return leaf
