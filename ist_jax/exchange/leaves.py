"""The kinds of leaves of an exchanged tree: what each stores, packs and unpacks.

    kind           repartition     pull            push
    HolderSharded  sends units     sends nothing   sends nothing
    HomeSharded    sends nothing   sends units     sends units back
    Shared         sends nothing   sends nothing   averages over the subnetworks

`pack_pull` returns the blocks to send, and `unpack_pull` takes the blocks that arrive in exchange.
Repartition and push work the same way. All these methods run on every device, on its part of the
arrays. P = S / R is the number of subnetworks on a device.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from ist_jax.core.assignment import home_size
from ist_jax.core.partition import Partition
from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import (
    Label,
    blend,
    extract_all,
    mean_or_old,
    merge,
    per_subnet,
    sum_of_contributions,
    take,
)
from ist_jax.core.types import Array, Indices, Key
from ist_jax.exchange import layout
from ist_jax.exchange.codecs import EXACT, Codec, codec_for
from ist_jax.exchange.transport import LocalTransport, SendTable

ROWS = "rows of a home"  # stands for the group of a home-sharded axis


class Transfer(NamedTuple):
    """The arguments of a repartition, pull or push that all leaves share.

    Attributes:
      tables: group -> its send table.
      indices: group -> int32[S, M], the units of each subnetwork.
      key: for stochastic rounding; None: round to nearest.
      weight_S: float32[S], the participation of each subnetwork; only in a push.
    """

    tables: Mapping[str, SendTable]
    indices: Indices
    key: Key | None = None
    weight_S: Array | None = None


@dataclasses.dataclass(frozen=True)
class Leaf(abc.ABC):
    """A leaf. By default, a transfer sends nothing and changes nothing.

    Attributes:
      number: the leaf's position in the tree, which its random keys depend on.
      label: its groups.
      shape: its shape in original order.
      dtype: its dtype.
      axis: the axis along which it is sharded; None: it is not sharded.
      codec: how its units are encoded.
      partition: which units each subnetwork holds.
      transport: how blocks are sent.
    """

    number: int
    label: Label
    shape: tuple[int, ...]
    dtype: Any
    axis: int | None
    codec: Codec
    partition: Partition
    transport: LocalTransport

    @property
    @abc.abstractmethod
    def spec(self) -> PartitionSpec:
        """How the stored array is sharded."""

    def lay_out(self, value: Array) -> Array:
        """The stored array for an initial `value` in original order, with units at their homes."""
        return value

    def pack_repartition(self, stored: Array, transfer: Transfer) -> list[Array]:
        return []

    def unpack_repartition(
        self, stored: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        """The stored array, partitioned by the next indices."""
        return stored

    def pack_pull(self, stored: Array, transfer: Transfer) -> list[Array]:
        return []

    def unpack_pull(self, stored: Array, received: Sequence[Array], transfer: Transfer) -> Array:
        """[P, ...]: the leaf in each of this device's subnetworks."""
        return stored

    def pack_push(self, pulled_P: Array, trained_P: Array, transfer: Transfer) -> list[Array]:
        return []

    @abc.abstractmethod
    def unpack_push(
        self, stored: Array, trained_P: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        """The stored array after the round."""

    def to_original_order(self, stored: Array, indices: Indices) -> Array:
        """The leaf in original order, without padding."""
        return stored

    def to_storage_order(self, stored: Array, indices: Indices) -> Array:
        """The leaf in `layout.storage_order`. Its sharded axis is stored in that order already."""
        return stored


class Shared(Leaf):
    """A leaf without groups: every device stores all of it."""

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec()

    def unpack_pull(self, stored: Array, received: Sequence[Array], transfer: Transfer) -> Array:
        num_local = self.transport.local(jnp.arange(self.partition.num_subnets)).size
        return jnp.broadcast_to(stored, (num_local, *stored.shape))

    def unpack_push(
        self, stored: Array, trained_P: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        if not self.label.averaged:
            return trained_P[0]
        assert transfer.weight_S is not None  # a push has them
        weight_P = self.transport.local(transfer.weight_S)
        total = sum_of_contributions(stored, trained_P, weight_P)
        count = (transfer.weight_S > 0).sum()
        return mean_or_old(self.transport.sum_over_devices(total), count, stored)


class _Sharded(Leaf):
    """A leaf with groups. Its units are encoded."""

    axis: int

    @property
    def group(self) -> str:
        """The group of the sharded axis."""
        return dict(self.label.groups)[self.axis]

    def _parts(self, arrays: Sequence[Array]) -> list[tuple[Array, Label]]:
        """(array, label) for each array of an encoded leaf.

        After the first array, only the sharded axis has a group.
        """
        one_group = Label(
            tuple(group if a == self.axis else None for a, group in enumerate(self.label.axes))
        )
        return [(array, one_group if i else self.label) for i, array in enumerate(arrays)]

    def _encode_each(self, value_P: Array, key: Key | None) -> tuple[Array, ...]:
        """The encoded leaf of each subnetwork. Its random key does not depend on its device."""
        if self.codec is EXACT:
            return (value_P,)
        assert key is not None  # only a pull has no key, and it does not call this
        subnet_P = self.transport.local(jnp.arange(self.partition.num_subnets))
        leaf_key = jax.random.fold_in(key, self.number)
        key_P = jax.vmap(lambda subnet: jax.random.fold_in(leaf_key, subnet))(subnet_P)
        return jax.vmap(lambda value, key: self.codec.encode(value, self.axis, key))(value_P, key_P)

    def _decode_into_slots(self, received: Sequence[Array], transfer: Transfer) -> Array:
        """[P, .., M, ..]: the received units in their slots."""
        table = transfer.tables[self.group]
        arrays = tuple(self.transport.unpack(block, self.axis, table) for block in received)
        value_P = self.codec.decode(arrays, self.dtype)
        # otherwise XLA stores the unit axis first, and every reader transposes it back
        return with_layout_constraint(value_P, Layout(tuple(range(value_P.ndim))))


class HolderSharded(_Sharded):
    """A leaf with one group, stored as [S, .., M, ..]: every subnetwork stores its units."""

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(AXIS)

    def lay_out(self, value: Array) -> Array:
        return layout.split_by_home(value, self.axis, self.partition.num_subnets)

    def pack_repartition(self, stored: Array, transfer: Transfer) -> list[Array]:
        rows = {self.group: transfer.tables[self.group].rows_SxL}

        def packed(part_P: Array, label: Label) -> Array:
            units = layout.join_holders(part_P, self.axis)
            return self.transport.pack(extract_all(units, label, rows, self.partition.num_subnets))

        return [packed(*part) for part in self._parts(self._encode_each(stored, transfer.key))]

    def unpack_repartition(
        self, stored: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        return self._decode_into_slots(received, transfer)

    def unpack_push(
        self, stored: Array, trained_P: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        assert transfer.weight_S is not None  # a push has them
        weight_P = self.transport.local(transfer.weight_S)
        return blend(stored, trained_P, per_subnet(weight_P, trained_P))

    def to_original_order(self, stored: Array, indices: Indices) -> Array:
        size = self.partition.sizes[self.group]
        position_N = layout.positions(indices[self.group], size)
        return take(layout.join_holders(stored, self.axis), position_N, self.axis)

    def to_storage_order(self, stored: Array, indices: Indices) -> Array:
        return layout.join_holders(stored, self.axis)


class HomeSharded(_Sharded):
    """Any other leaf with groups, stored as [.., N, ..]: every home stores its units."""

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(*[None] * self.axis, AXIS)

    def lay_out(self, value: Array) -> Array:
        if self.transport.mesh is None:
            return value
        num_subnets = self.partition.num_subnets
        length = num_subnets * home_size(value.shape[self.axis], num_subnets)
        return layout.pad_to(value, self.axis, length)

    def _rows(self, label: Label, transfer: Transfer) -> tuple[Label, Indices]:
        """(label, indices) into the stored array: local rows on the sharded axis, units on others.

        The sharded axis has another name there, since its group may label a second axis.
        """
        axes = tuple(ROWS if axis == self.axis else group for axis, group in enumerate(label.axes))
        units = {group: transfer.indices[group] for _, group in label.groups}
        return Label(axes), units | {ROWS: transfer.tables[self.group].rows_SxL}

    def pack_pull(self, stored: Array, transfer: Transfer) -> list[Array]:
        def packed(part: Array, label: Label) -> Array:
            rows_S = extract_all(part, *self._rows(label, transfer), self.partition.num_subnets)
            return self.transport.pack(rows_S)

        return [packed(*part) for part in self._parts(self.codec.encode(stored, self.axis, None))]

    def unpack_pull(self, stored: Array, received: Sequence[Array], transfer: Transfer) -> Array:
        return self._decode_into_slots(received, transfer)

    def pack_push(self, pulled_P: Array, trained_P: Array, transfer: Transfer) -> list[Array]:
        value_P = trained_P - pulled_P if self.codec.differences else trained_P
        table = transfer.tables[self.group]
        return [
            self.transport.pack_return(part_P, self.axis, table)
            for part_P in self._encode_each(value_P, transfer.key)
        ]

    def unpack_push(
        self, stored: Array, trained_P: Array, received: Sequence[Array], transfer: Transfer
    ) -> Array:
        arrays = tuple(map(self.transport.unpack_return, received))
        value_S = self.codec.decode(arrays, self.dtype)
        label, rows = self._rows(self.label, transfer)
        # differences are merged into -0.0, since -0.0 + x is x to the last bit
        old = jnp.full_like(stored, -0.0) if self.codec.differences else stored
        disjoint = self.partition.disjoint
        new = merge(old, value_S, label, rows, transfer.weight_S, disjoint=disjoint)
        return stored + new if self.codec.differences else new

    def to_original_order(self, stored: Array, indices: Indices) -> Array:
        return stored[tuple(map(slice, self.shape))]

    def to_storage_order(self, stored: Array, indices: Indices) -> Array:
        units = layout.storage_order(self.partition, indices)
        for axis, group in self.label.groups:
            if axis == self.axis:
                stored = layout.pad_to(stored, axis, units[group].size)
            else:
                stored = take(stored, units[group], axis)
        return stored


def make_leaf(
    number: int,
    label: Label,
    shape: Any,
    compression: str,
    partition: Partition,
    transport: LocalTransport,
) -> Leaf:
    """The leaf, of the kind that its label and the partition imply.

    `shape` is its array or ShapeDtypeStruct, `compression` a name of `codecs.CODECS`.
    """
    kind, axis = HolderSharded, layout.holder_sharded_axis(label, partition)
    if not label.groups:
        kind = Shared
    elif axis is None:
        kind, axis = HomeSharded, layout.home_axis(label, partition)[0]
    codec = codec_for(compression, shape, axis, partition.num_subnets)
    return kind(number, label, tuple(shape.shape), shape.dtype, axis, codec, partition, transport)
