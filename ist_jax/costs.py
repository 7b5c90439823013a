"""Bytes of a synchronisation, by arithmetic from labels, shapes and partition.

All numbers are bytes *sent by one device* when every subnetwork has a device of its own (R = S), which is
what a method costs on a cluster, whatever machine a run happens to be on.
"""

import math
from typing import Any

import jax

from ist_jax.partition import Partition
from ist_jax.subnet import Label, is_label


def _leaves(labels: Any, shapes: Any) -> list[tuple[Label, Any]]:
    flat = jax.tree.leaves(labels, is_leaf=is_label)
    return list(zip(flat, jax.tree.structure(labels, is_leaf=is_label).flatten_up_to(shapes)))


def _held_bytes(label: Label, leaf: Any, units: dict[str, float]) -> float:
    """Bytes of the part of a leaf with `units[group]` units on every labelled axis."""
    lengths = [units[group] if group is not None else length for group, length in zip(label.axes, leaf.shape)]
    return math.prod(lengths) * leaf.dtype.itemsize


def all_reduce_bytes(num_bytes: int, num_devices: int) -> float:
    """Bytes that each device sends in a bandwidth-optimal ring all-reduce: 2 (R - 1) / R of the tree."""
    return 2 * (num_devices - 1) / num_devices * num_bytes


def subnet_bytes(labels: Any, shapes: Any, partition: Partition) -> int:
    """Bytes of one subnetwork, padded slots included."""
    return sum(int(_held_bytes(label, leaf, dict(partition.slots))) for label, leaf in _leaves(labels, shapes))


def home_sharded_bytes(labels: Any, shapes: Any, partition: Partition) -> float:
    """Bytes sent per device and synchronisation by `exchange.home_sharded`: pull and push.

    A device sends every other device one block of K units per leaf and direction (K as in
    `Partition.pair_units`, wire padding included), and all-reduces shared leaves in a ring. Leaves that are
    equal everywhere are not sent. For partitions that a mesh refuses, blocks are counted without padding.
    """
    num_subnets, total = partition.num_subnets, 0.0
    for label, leaf in _leaves(labels, shapes):
        if not label.groups:
            total += all_reduce_bytes(_held_bytes(label, leaf, {}), num_subnets) if label.averaged else 0
            continue
        resting = label.groups[0][1]
        units = partition.pair_units(resting) if partition.equal_blocks else partition.slots[resting] / num_subnets
        total += 2 * (num_subnets - 1) * _held_bytes(label, leaf, dict(partition.slots) | {resting: units})
    return total


def lower_bound_bytes(labels: Any, shapes: Any, partition: Partition) -> float:
    """Bytes per device that no exchange of freshly drawn, uniform partitions can go below.

    Of the units that a device trains next, (S - 1) / S lie elsewhere on average, and each is sent once;
    shared leaves are averaged, at the cost of a ring all-reduce.
    """
    total = 0.0
    units = {
        g: size / partition.num_subnets if partition.disjoint else partition.slots[g] for g, size in partition.sizes.items()
    }
    for label, leaf in _leaves(labels, shapes):
        held = _held_bytes(label, leaf, units)
        once = (partition.num_subnets - 1) / partition.num_subnets * held
        total += once if label.groups else 2 * once * label.averaged
    return total
