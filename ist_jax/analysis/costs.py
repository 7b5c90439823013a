"""Bytes of a synchronisation, by arithmetic from labels, shapes and partition.

All numbers are bytes *sent by one device* when every subnetwork has a device of its own (R = S), which is
what a method costs on a cluster, whatever machine a run happens to be on.

The lower bound of a leaf, for freshly drawn partitions:

    no group     2 (S - 1) / S of the leaf: an average is a ring all-reduce at best
    one group    (S - 1) / S of what a subnetwork holds: so much of its next units lie elsewhere, each sent once
    two groups   the same of a subnetwork's block: it could be reached only by a store that keeps every single entry where it
                 was trained last, and so remembers a place for every entry; at home, blocks are sent twice

Where units have several holders, of what a subnetwork holds as well: averaging them takes more than that.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ist_jax.core.partition import Partition
from ist_jax.core.subnet import Label, is_label
from ist_jax.core.trees import leaf_names
from ist_jax.exchange.codecs import Format, each_leaf, format_of
from ist_jax.exchange.layout import home_axis, travelling_axis


class LeafCost(NamedTuple):
    """What one leaf costs in a synchronisation, in bytes sent per device.

    Attributes:
      name: of the leaf.
      way: 'travels', 'home', 'shared', or 'equal' (everywhere, never sent).
      sent: by the exchange over a mesh, padding of blocks included.
      lower_bound: what no exact exchange can go below; a rounded one may.
      all_reduce: a ring all-reduce of the whole leaf.
    """

    name: str
    way: str
    sent: float
    lower_bound: float
    all_reduce: float


def _held(label: Label, leaf: Any, units: dict[str, float]) -> float:
    """Entries of the part of a leaf with `units[group]` units on every labelled axis."""
    return math.prod(
        units[group] if group is not None else length
        for group, length in zip(label.axes, leaf.shape)
    )


def all_reduce_bytes(num_bytes: float, num_devices: int) -> float:
    """Bytes that each device sends in a bandwidth-optimal ring all-reduce: 2 (R - 1) / R of the tree."""
    return 2 * (num_devices - 1) / num_devices * num_bytes


def _flat(labels: Any, shapes: Any) -> list[tuple[str, Label, Any]]:
    flat, treedef = jax.tree.flatten(labels, is_leaf=is_label)
    return list(zip(leaf_names(shapes), flat, treedef.flatten_up_to(shapes)))


def subnet_bytes(labels: Any, shapes: Any, partition: Partition) -> int:
    """Bytes of one subnetwork, padded slots included."""
    slots = dict(partition.slots)
    return sum(
        int(_held(label, leaf, slots)) * leaf.dtype.itemsize
        for _, label, leaf in _flat(labels, shapes)
    )


def _block_bytes(label: Label, leaf: Any, partition: Partition, group: str, wire: Format) -> float:
    """Bytes of what one dealer sends one subnetwork of a leaf, as `wire` writes it."""
    pair = (
        partition.pair_units(group)
        if partition.equal_blocks
        else partition.slots[group] / partition.num_subnets
    )
    entries = _held(label, leaf, dict(partition.slots) | {group: pair})
    return entries * (wire.bits / 8 if wire.bits else leaf.dtype.itemsize) + pair * wire.unit_bytes


def leaf_costs(
    labels: Any, shapes: Any, partition: Partition, wires: Any = "exact"
) -> list[LeafCost]:
    """The costs of every leaf, in the order of the tree.

    For partitions that a mesh refuses, blocks are counted without padding.

    Args:
      labels: of what is exchanged.
      shapes: its arrays or ShapeDtypeStructs.
      partition: whose travelling groups are chosen.
      wires: as of `exchange.over_mesh`.
    """
    num_subnets, others = partition.num_subnets, partition.num_subnets - 1
    share = {
        g: partition.slots[g] if g in partition.overlapping else n / num_subnets
        for g, n in partition.sizes.items()
    }
    names = each_leaf(wires, shapes)

    def cost(name: str, label: Label, leaf: Any, wire: str) -> LeafCost:
        itemsize = leaf.dtype.itemsize
        ring = all_reduce_bytes(math.prod(leaf.shape) * itemsize, num_subnets)
        if not label.groups:
            return (
                LeafCost(name, "shared", ring, ring, ring)
                if label.averaged
                else LeafCost(name, "equal", 0, 0, 0)
            )
        bound = others / num_subnets * _held(label, leaf, share) * itemsize
        travels = travelling_axis(label, partition) is not None
        axis, group = label.groups[0] if travels else home_axis(label, partition)
        block = _block_bytes(
            label, leaf, partition, group, format_of(wire, leaf, axis, num_subnets)
        )
        way, times = ("travels", 1) if travels else ("home", 2)
        return LeafCost(name, way, times * others * block, bound, ring)

    return [cost(*leaf, wire) for leaf, wire in zip(_flat(labels, shapes), names)]


def kept_costs(
    labels: Any, shapes: Any, partition: Partition, wires: Any = "exact"
) -> list[LeafCost]:
    """The costs of state that never goes to the subnetworks: of what rests with holders. At home, it would cost nothing."""
    found = leaf_costs(labels, shapes, partition, wires)
    return [
        leaf._replace(lower_bound=0.0, all_reduce=0.0) for leaf in found if leaf.way == "travels"
    ]


def messages(leaves: Sequence[LeafCost], num_subnets: int) -> int:
    """How many messages a device sends one after another in a synchronisation."""
    ways = {leaf.way for leaf in leaves if leaf.sent}
    return ("travels" in ways) + 2 * ("home" in ways) + 2 * (num_subnets - 1) * ("shared" in ways)


def server_bytes(labels: Any, shapes: Any, partition: Partition) -> float:
    """Bytes of a round in the convention of the ResIST paper (Dun et al., UAI 2022, Table 1).

    A server sends every worker its subnetwork and gets it back, shared leaves included; all workers together.
    """
    return 2.0 * partition.num_subnets * subnet_bytes(labels, shapes, partition)


# An accelerator at its peak: 400 W for 19.5 TFLOP/s in float32 (NVIDIA A100 SXM data sheet, 2020)
JOULES_PER_FLOP = 400 / 19.5e12
# The public internet: 0.06 kWh per GB in 2015 (Aslan, Mayers, Koomey, France: Electricity intensity of internet data
# transmission, Journal of Industrial Ecology 22(4), 2018); a network inside a building takes far less
JOULES_PER_BYTE = 0.06 * 3.6e6 / 1e9


def energy(
    flops: float,
    num_bytes: float,
    *,
    joules_per_flop: float = JOULES_PER_FLOP,
    joules_per_byte: float = JOULES_PER_BYTE,
) -> dict[str, float]:
    """An estimate in joules: {'compute', 'link'}, and the two coefficients it comes from. It measures nothing."""
    return {
        "compute": flops * joules_per_flop,
        "link": num_bytes * joules_per_byte,
        "joules_per_flop": joules_per_flop,
        "joules_per_byte": joules_per_byte,
    }
