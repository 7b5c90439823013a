"""Layout: how parameters are stored between rounds.

Units of a *holder-sharded* group are stored by the subnetworks that hold them. A leaf whose only
group is holder-sharded has the shape [S, .., M, ..]. A synchronisation sends its units once, from
their holder to the next one.

Units of a *home-sharded* group are stored at fixed homes, in original order. Every leaf with
such a group is sharded along it. A synchronisation sends its units twice: to a subnetwork and back.

A leaf with two labelled axes has entries that no subnetwork holds. So at least one of its groups is
home-sharded; if one group labels both axes, that group is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.assignment import home_size
from ist_jax.core.partition import Partition
from ist_jax.core.subnet import Label, is_label
from ist_jax.core.types import Array, Indices


def holder_sharded_axis(label: Label, partition: Partition) -> int | None:
    """The labelled axis of a holder-sharded leaf; None for any other leaf."""
    if len(label.groups) == 1 and label.groups[0][1] in partition.holder_sharded:
        return label.groups[0][0]
    return None


def home_axis(label: Label, partition: Partition) -> tuple[int, str]:
    """The first home-sharded (axis, group): a leaf that is not holder-sharded is split along it."""
    return next(
        (axis, group) for axis, group in label.groups if group not in partition.holder_sharded
    )


def choose_home_sharded(
    labels: Any, shapes: Any, outer: tuple[Any, Any] = ((), ()), overlapping: Iterable[str] = ()
) -> frozenset[str]:
    """The home-sharded groups that make a synchronisation cheapest: a vertex cover of least bytes.

    Every leaf with several groups needs a home-sharded one. For a leaf with one group:

        the group is      the leaf is sent    outer optimizer state over it is sent
        home-sharded      twice               never
        holder-sharded    once                once

    Args:
      labels: labels of what subnetworks receive: parameters and carried optimizer state.
      shapes: its arrays or ShapeDtypeStructs.
      outer: (labels, shapes) of the outer optimizer's state, which subnetworks never receive.
      overlapping: groups whose units have several holders. They are always home-sharded.
    """
    exchanged = _labelled(labels, shapes)
    groups = sorted({group for label, _ in exchanged for _, group in label.groups})
    forced = set(overlapping) & set(groups)
    extra_bytes = dict.fromkeys(groups, 0)  # what home-sharding costs beyond holder-sharding
    for sign, leaves in ((1, exchanged), (-1, _labelled(*outer))):
        for label, num_bytes in leaves:
            if len(label.groups) == 1:
                extra_bytes[label.groups[0][1]] += sign * num_bytes
    edges = {
        tuple(sorted(group for _, group in label.groups))
        for label, _ in exchanged
        if len(label.groups) > 1
    }
    if not edges:
        return frozenset(forced | {group for group in groups if extra_bytes[group] < 0})
    return _cheapest_cover(extra_bytes, edges, forced)


def _labelled(labels: Any, shapes: Any) -> list[tuple[Label, int]]:
    """(label, bytes) of every leaf with a group."""
    flat, treedef = jax.tree.flatten(labels, is_leaf=is_label)
    leaves = zip(flat, treedef.flatten_up_to(shapes))
    return [(label, leaf.size * leaf.dtype.itemsize) for label, leaf in leaves if label.groups]


def _cheapest_cover(
    cost: Mapping[str, int], edges: Iterable[tuple[str, ...]], forced: Iterable[str]
) -> frozenset[str]:
    """The cheapest set with at least one group of each edge, and all forced groups."""
    groups = sorted(cost)
    from scipy.optimize import Bounds, LinearConstraint, milp

    # ties in bytes go to the smaller cover, further ties to the first by name
    rank = len(groups) ** 2
    objective = [cost[group] * 2 * rank + rank + number for number, group in enumerate(groups)]
    in_edge = np.array([[group in edge for group in groups] for edge in sorted(edges)], float)
    lower = np.array([group in forced for group in groups], float)
    solution = milp(
        objective,
        integrality=np.ones(len(groups)),
        bounds=Bounds(lower, 1),  # pyright: ignore[reportArgumentType]  # arrays are taken, too
        constraints=LinearConstraint(in_edge, lb=1),
        options={"mip_rel_gap": 0},
    )
    return frozenset(group for group, chosen in zip(groups, solution.x) if chosen > 0.5)


def choose_holder_sharded(
    partition: Partition, labels: Any, shapes: Any, outer: tuple[Any, Any] = ((), ())
) -> Partition:
    """`partition` with every group holder-sharded, except those that `choose_home_sharded` picks.

    Only 'balanced' has holder-sharded groups; other partitions are returned unchanged. For the
    arguments, see `choose_home_sharded`.
    """
    if partition.name != "balanced":
        return partition
    home_sharded = choose_home_sharded(labels, shapes, outer, partition.overlapping)
    return partition.with_holder_sharded(set(partition.sizes) - home_sharded)


def positions(index_SxM: Array, size: int) -> Array:
    """int32[N]: the position s * M + slot at which each unit is stored."""
    unit = index_SxM.reshape(-1)
    position = jnp.arange(unit.size, dtype=jnp.int32)
    return jnp.full(size, unit.size, jnp.int32).at[unit].set(position, mode="drop")


def pad_to(leaf: Array, axis: int, length: int) -> Array:
    """`leaf` with zeros at the end of `axis`, which then has `length` entries."""
    missing = length - leaf.shape[axis]
    return jnp.pad(leaf, [(0, missing if a == axis else 0) for a in range(leaf.ndim)])


def split_by_home(leaf: Array, axis: int, num_subnets: int) -> Array:
    """[.., N, ..] in original order to [S, .., M, ..]: the units of each home, zero-padded."""
    slots = home_size(leaf.shape[axis], num_subnets)
    full = pad_to(leaf, axis, num_subnets * slots)
    split = full.reshape(*leaf.shape[:axis], num_subnets, slots, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)


def join_holders(leaf_S: Array, axis: int) -> Array:
    """[S, .., M, ..] to [.., S * M, ..]: the slots of all holders, one holder after another."""
    front = jnp.moveaxis(leaf_S, 0, axis)
    return front.reshape(*front.shape[:axis], -1, *front.shape[axis + 2 :])


def storage_order(partition: Partition, indices: Indices) -> Indices:
    """group -> int32[S * M]: the unit at every place of a group's axis in `Exchange.stored_params`.

    A holder-sharded group is ordered by holder. A home-sharded group is in original order. Both are
    padded: a place without a unit has the group's size as its index.
    """

    def units(group: str, size: int) -> Array:
        if group in partition.holder_sharded:
            return indices[group].reshape(-1)
        length = partition.num_subnets * home_size(size, partition.num_subnets)
        return jnp.minimum(jnp.arange(length, dtype=jnp.int32), size)

    return {group: units(group, size) for group, size in partition.sizes.items()}
