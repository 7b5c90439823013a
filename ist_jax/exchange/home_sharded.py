"""The mesh as a partitioned parameter server: every unit has a home, and travels there and back.

Plain sharded indexing compiles to an all-gather of the whole parameters, S times the bytes that IST
needs. Here every leaf rests sharded along its first labelled axis (padded to a multiple of S, home h
owning an equal slice), and `pull` is a local gather, one `all_to_all` of equal blocks and a local
compaction into the subnetwork's slots; `push` is the inverse. A leaf with two labelled axes sends its
rows of the home x columns of the subnetwork only. Shared leaves are averaged by one `psum`.

Bytes sent per device and round, R devices: 2 (R - 1) / R x the bytes of its subnetworks, plus wire
padding where S^2 does not divide a group (`ist_jax.costs`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ist_jax.exchange.base import Exchange, Store
from ist_jax.partition import Partition, home_size
from ist_jax.placement import AXIS
from ist_jax.subnet import Label, extract_all, map_labels, merge, take
from ist_jax.types import Array, Indices, Params


class Wire(NamedTuple):
    """How the units of one group travel, as tables of positions; an index past the end is padding.

    L is the wire positions of one device's homes, H x K those of all homes in order.

    Attributes:
      local_SxL: on this device, for every subnetwork: the rows of the local slice it is sent.
      slot_SxHK: for every subnetwork and wire position: the slot it goes to.
      wire_SxM: for every subnetwork and slot: the wire position it comes from.
    """

    local_SxL: Array
    slot_SxHK: Array
    wire_SxM: Array


class Round(NamedTuple):
    """What one device knows of the exchange of one round."""

    wires: dict[str, Wire]
    indices: Indices
    num_subnets: int
    num_devices: int

    @property
    def per_device(self) -> int:
        return self.num_subnets // self.num_devices

    def own(self, stacked_S: Array) -> Array:
        """The rows of this device's subnetworks (or homes)."""
        return lax.dynamic_slice_in_dim(stacked_S, lax.axis_index(AXIS) * self.per_device, self.per_device)

    def local_indices(self, label: Label) -> Indices:
        """Indices into the local slice of a leaf: local rows on its resting axis, units on any other."""
        (_, resting), *others = label.groups
        return {resting: self.wires[resting].local_SxL} | {group: self.indices[group] for _, group in others}


def _wire(index_SxM: Array, size: int, pair: int, num_devices: int) -> Wire:
    """The tables for one group. `pair` is K, the units that a home and a subnetwork share at most."""
    num_subnets, slots = index_SxM.shape
    home = home_size(size, num_subnets)
    home_SxM = index_SxM // home  # rows are sorted, so homes come in order
    held_SxM = index_SxM < size
    from_SxMxH = jax.nn.one_hot(home_SxM, num_subnets, dtype=jnp.int32)  # padding is of no home
    count_SxH = jnp.where(held_SxM[..., None], from_SxMxH, 0).sum(axis=1)
    first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
    first_SxM = jnp.take_along_axis(first_SxH, jnp.minimum(home_SxM, num_subnets - 1), axis=1)
    rank_SxM = jnp.arange(slots)[None] - first_SxM
    wire_SxM = jnp.where(held_SxM, home_SxM * pair + rank_SxM, num_subnets * pair)
    k_K = jnp.arange(pair)[None, None]
    slot_SxHxK = jnp.where(k_K < count_SxH[..., None], first_SxH[..., None] + k_K, slots)
    unit_SxHxK = jax.vmap(lambda index, slot: jnp.take(index, slot, mode="fill", fill_value=size))(index_SxM, slot_SxHxK)
    per_device = num_subnets // num_devices
    begin = lax.axis_index(AXIS) * per_device
    unit_SxPxK = lax.dynamic_slice_in_dim(unit_SxHxK, begin, per_device, axis=1)  # P homes of this device
    local_SxPxK = jnp.where(unit_SxPxK < size, unit_SxPxK - begin * home, per_device * home)
    return Wire(local_SxPxK.reshape(num_subnets, -1), slot_SxHxK.reshape(num_subnets, -1), wire_SxM)


def _pull_leaf(leaf: Array, label: Label, now: Round) -> Array:
    if not label.groups:
        return jnp.broadcast_to(leaf, (now.per_device, *leaf.shape))
    axis, group = label.groups[0]
    sent_S = extract_all(leaf, label, now.local_indices(label), now.num_subnets)
    got_R = lax.all_to_all(sent_S.reshape(now.num_devices, now.per_device, *sent_S.shape[1:]), AXIS, 0, 0)
    wire_S = jnp.moveaxis(got_R, 0, axis + 1)  # devices in front of their wire positions
    wire_S = wire_S.reshape(*wire_S.shape[: axis + 1], -1, *wire_S.shape[axis + 3 :])
    return jax.vmap(lambda wire, position: take(wire, position, axis))(wire_S, now.own(now.wires[group].wire_SxM))


def _push_leaf(leaf: Array, sub_S: Array, label: Label, now: Round, alive_S: Array, disjoint: bool) -> Array:
    if not label.groups:
        return _push_shared(leaf, sub_S, label, now.own(alive_S), alive_S.sum())
    axis, group = label.groups[0]
    wire_S = jax.vmap(lambda sub, slot: take(sub, slot, axis))(sub_S, now.own(now.wires[group].slot_SxHK))
    before, after = wire_S.shape[: axis + 1], wire_S.shape[axis + 2 :]
    wire_R = jnp.moveaxis(wire_S.reshape(*before, now.num_devices, -1, *after), axis + 1, 0)
    got_R = lax.all_to_all(wire_R, AXIS, 0, 0)
    got_S = got_R.reshape(-1, *got_R.shape[2:])
    return merge(leaf, got_S, label, now.local_indices(label), alive_S, disjoint=disjoint)


def _push_shared(leaf: Array, sub_S: Array, label: Label, own_alive_S: Array, num_alive: Array) -> Array:
    if not label.averaged:
        return sub_S[0]
    alive_S = own_alive_S.reshape((-1,) + (1,) * leaf.ndim)
    total = lax.psum(jnp.where(alive_S, sub_S, 0).sum(axis=0), AXIS)
    count = num_alive.astype(leaf.dtype)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), leaf).astype(leaf.dtype)


def _padded(leaf: Array, label: Label, num_subnets: int) -> Array:
    if not label.groups:
        return leaf
    axis = label.groups[0][0]
    width = [(0, -leaf.shape[a] % num_subnets if a == axis else 0) for a in range(leaf.ndim)]
    return jnp.pad(leaf, width)


def _spec(label: Label) -> PartitionSpec:
    if not label.groups:
        return PartitionSpec()
    return PartitionSpec(*[None] * label.groups[0][0], AXIS)


def _check(partition: Partition, mesh: Mesh) -> None:
    if partition.num_subnets % mesh.size:
        raise ValueError(
            f"every device carries as many subnetworks: S={partition.num_subnets} is no multiple of {mesh.size} devices"
        )
    if not partition.equal_blocks:
        raise ValueError(
            f"a mesh exchanges equal blocks, and the partition {partition.name!r} does not bound what one home sends to one "
            "subnetwork: use 'balanced' (or 'blocks'), or placement=looped or vmapped"
        )


def home_sharded(labels: Any, shapes: Any, partition: Partition, mesh: Mesh) -> Exchange:
    """The exchange over `mesh`, which has the one axis `placement.AXIS`.

    Args:
      labels: labels of the tree to exchange, from `subnet.label_axes`.
      shapes: that tree's arrays or ShapeDtypeStructs.
      partition: 'balanced' or 'blocks' (whose blocks on the wire may be mostly padding), or without groups.
      mesh: R devices, R divides S.

    Raises:
      ValueError: R does not divide S, or the partition has no equal blocks.
    """
    _check(partition, mesh)
    num_subnets, replicated, subnets = partition.num_subnets, PartitionSpec(), PartitionSpec(AXIS)
    specs = map_labels(_spec, labels)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    def on_mesh(f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        # check_vma cannot see that an unlabelled leaf is equal on all devices
        return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def this_round(indices: Indices) -> Round:
        table = lambda group: _wire(indices[group], partition.sizes[group], partition.pair_units(group), mesh.size)
        return Round({group: table(group) for group in indices}, indices, num_subnets, mesh.size)

    def init(params: Params) -> Store:
        padded = map_labels(lambda label, leaf: _padded(leaf, label, num_subnets), labels, params)
        return lax.with_sharding_constraint(padded, shardings)

    def pull(store: Store, indices: Indices, next_indices: Indices) -> Params:
        def local(store: Store, index: Indices) -> Params:
            now = this_round(index)
            return map_labels(lambda label, leaf: _pull_leaf(leaf, label, now), labels, store)

        return on_mesh(local, (specs, replicated), subnets)(store, dict(next_indices))

    def push(store: Store, subparams_S: Params, indices: Indices, alive_S: Array) -> Store:
        def local(store: Store, sub_S: Params, index: Indices, alive_S: Array) -> Store:
            now = this_round(index)
            write = lambda label, leaf, sub: _push_leaf(leaf, sub, label, now, alive_S, partition.disjoint)
            return map_labels(write, labels, store, sub_S)

        return on_mesh(local, (specs, subnets, replicated, replicated), specs)(store, subparams_S, dict(indices), alive_S)

    def params(store: Store, indices: Indices) -> Params:
        return map_labels(lambda label, leaf, whole: leaf[tuple(map(slice, whole.shape))], labels, store, shapes)

    return Exchange(init, pull, push, params, shardings)
