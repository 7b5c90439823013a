"""Bytes of a synchronisation, computed from labels, shapes and partition.

All numbers are bytes *sent by one device* if every subnetwork has a device (R = S). They are the
cost of a method on a cluster, and do not depend on the machine of a run.

The lower bound of a leaf, for freshly drawn partitions:

    no group     2 (S - 1) / S of the leaf: no average is cheaper than a ring all-reduce
    one group    (S - 1) / S of what a subnetwork holds: this share of its next units is elsewhere,
                 and each unit is sent once
    two groups   (S - 1) / S of a subnetwork's block, for the same reason. Reaching this bound
                 would need a store that keeps each entry on the device that last trained it. This
                 exchange sends a block twice: from its homes and back.

If units have several holders, the bound counts the units that a subnetwork holds. Averaging them
takes more bytes than that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ist_jax.core.partition import Partition
from ist_jax.core.subnet import Label, is_label
from ist_jax.core.trees import leaf_names
from ist_jax.exchange.codecs import Codec, codec_for, codec_names
from ist_jax.exchange.layout import holder_sharded_axis, home_axis


class LeafCost(NamedTuple):
    """The cost of one leaf in a synchronisation, in bytes sent per device.

    Attributes:
      name: the leaf's name.
      kind: 'holder-sharded', 'home-sharded', 'shared', 'sparse' (each worker sends some entries to
        all others), or 'equal' (equal on all devices, never sent).
      sent: bytes that the exchange over a mesh sends, with the padding of blocks.
      lower_bound: the fewest bytes that an exact exchange can send; a rounded one may send less.
      all_reduce: bytes of a ring all-reduce of the full leaf.
    """

    name: str
    kind: str
    sent: float
    lower_bound: float
    all_reduce: float


def _entries(label: Label, leaf: Any, units: Mapping[str, float]) -> float:
    """Entries of the part of a leaf that has `units[group]` units on every labelled axis."""
    return math.prod(
        units[group] if group is not None else length
        for group, length in zip(label.axes, leaf.shape)
    )


def all_reduce_bytes(num_bytes: float, num_devices: int) -> float:
    """2 (R - 1) / R of `num_bytes`: what each of R devices sends in a ring all-reduce."""
    return 2 * (num_devices - 1) / num_devices * num_bytes


def _labelled_leaves(labels: Any, shapes: Any) -> list[tuple[str, Label, Any]]:
    flat, treedef = jax.tree.flatten(labels, is_leaf=is_label)
    return list(zip(leaf_names(shapes), flat, treedef.flatten_up_to(shapes)))


def subnet_bytes(labels: Any, shapes: Any, partition: Partition) -> int:
    """Bytes of one subnetwork, padded slots included."""
    return sum(
        int(_entries(label, leaf, partition.slots)) * leaf.dtype.itemsize
        for _, label, leaf in _labelled_leaves(labels, shapes)
    )


def _block_bytes(label: Label, leaf: Any, partition: Partition, group: str, codec: Codec) -> float:
    """Bytes of one leaf that one owner sends to one subnetwork, with padding."""
    pair = (
        partition.block_units(group)
        if partition.equal_blocks
        else partition.slots[group] / partition.num_subnets
    )
    entries = _entries(label, leaf, partition.slots) // partition.slots[group] * pair
    bytes_per_entry = codec.bits / 8 if codec.bits else leaf.dtype.itemsize
    return entries * bytes_per_entry + pair * codec.unit_bytes


def leaf_costs(
    labels: Any, shapes: Any, partition: Partition, compressions: Any = "exact"
) -> list[LeafCost]:
    """The costs of every leaf, in the order of the tree.

    For a partition that a mesh cannot exchange, blocks are counted without padding.

    Args:
      labels: labels of the exchanged tree.
      shapes: its arrays or ShapeDtypeStructs.
      partition: the partition, with its holder-sharded groups chosen.
      compressions: see `exchange.over_mesh`.
    """
    names = codec_names(compressions, shapes)
    return [
        _leaf_cost(*leaf, partition, compression)
        for leaf, compression in zip(_labelled_leaves(labels, shapes), names)
    ]


def _leaf_cost(
    name: str, label: Label, leaf: Any, partition: Partition, compression: str
) -> LeafCost:
    num_subnets, itemsize = partition.num_subnets, leaf.dtype.itemsize
    ring = all_reduce_bytes(math.prod(leaf.shape) * itemsize, num_subnets)
    if not label.groups:
        sent = ring if label.averaged else 0
        return LeafCost(name, "shared" if label.averaged else "equal", sent, sent, sent)
    share = {
        group: partition.slots[group] if group in partition.overlapping else size / num_subnets
        for group, size in partition.sizes.items()
    }
    others = num_subnets - 1
    bound = others / num_subnets * _entries(label, leaf, share) * itemsize
    kind, times, axis = "holder-sharded", 1, holder_sharded_axis(label, partition)
    if axis is None:
        kind, times, axis = "home-sharded", 2, home_axis(label, partition)[0]
    codec = codec_for(compression, leaf, axis, num_subnets)
    block = _block_bytes(label, leaf, partition, dict(label.groups)[axis], codec)
    return LeafCost(name, kind, times * others * block, bound, ring)


def outer_state_costs(
    labels: Any, shapes: Any, partition: Partition, compressions: Any = "exact"
) -> list[LeafCost]:
    """The costs of an outer optimizer's state, which subnetworks never receive.

    Only holder-sharded leaves are sent, to their next holders. For the arguments, see `leaf_costs`.
    """
    return [
        leaf._replace(lower_bound=0.0, all_reduce=0.0)
        for leaf in leaf_costs(labels, shapes, partition, compressions)
        if leaf.kind == "holder-sharded"
    ]


def messages(leaves: Sequence[LeafCost], num_subnets: int) -> int:
    """The number of messages that a device sends one after another in a synchronisation."""
    kinds = {leaf.kind for leaf in leaves if leaf.sent}
    others = num_subnets - 1  # a ring passes on one message after another
    ring = others * (2 * ("shared" in kinds) + ("sparse" in kinds))
    return ("holder-sharded" in kinds) + 2 * ("home-sharded" in kinds) + ring


def server_bytes(labels: Any, shapes: Any, partition: Partition) -> float:
    """Bytes of a round as the ResIST paper counts them (Dun et al., UAI 2022, Table 1).

    A server sends every worker its subnetwork, with shared leaves, and receives it back. The result
    is the sum over all workers.
    """
    return 2.0 * partition.num_subnets * subnet_bytes(labels, shapes, partition)


# An accelerator at peak: 400 W for 19.5 TFLOP/s in float32 (NVIDIA A100 SXM data sheet, 2020)
JOULES_PER_FLOP = 400 / 19.5e12
# The public internet: 0.06 kWh per GB in 2015 (Aslan, Mayers, Koomey, France: Electricity intensity
# of internet data transmission, Journal of Industrial Ecology 22(4), 2018). A network inside a
# building needs far less.
JOULES_PER_BYTE = 0.06 * 3.6e6 / 1e9


def energy(
    flops: float,
    num_bytes: float,
    *,
    joules_per_flop: float = JOULES_PER_FLOP,
    joules_per_byte: float = JOULES_PER_BYTE,
) -> dict[str, float]:
    """An estimate in joules, not a measurement.

    Args:
      flops: floating-point operations.
      num_bytes: bytes sent.
      joules_per_flop: default: an accelerator at peak.
      joules_per_byte: default: the public internet.

    Returns:
      The joules 'compute' and 'link', and the two coefficients.
    """
    return {
        "compute": flops * joules_per_flop,
        "link": num_bytes * joules_per_byte,
        "joules_per_flop": joules_per_flop,
        "joules_per_byte": joules_per_byte,
    }
