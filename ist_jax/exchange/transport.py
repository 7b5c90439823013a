"""How blocks of units get from their dealers to the subnetworks and back: in one memory, or over a mesh.

Plain sharded indexing compiles to an all-gather of everything, S times the bytes that IST needs. Here every dealer
(a home, or the holder of travelling units) sends every subnetwork one block of K units: a local gather, one
`all_to_all` of equal blocks, a local compaction into the subnetwork's slots. The way back is its inverse.

Bytes sent per device, R devices: (R - 1) / R x the bytes of its subnetworks, plus padding of blocks where S^2 does not
divide a group (`ist_jax.analysis.costs`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import take
from ist_jax.core.types import Array

# a device's blocks below this many bytes share one collective, and larger ones are not copied for it: on 8 CPU devices packing
# takes 0.5 of the time at 64 KiB and 0.9 at 256 KiB, where the copy's memory is worth more (ist_jax.cli.benchmarks.rounds)
PACK_BELOW = 1 << 16


def _all_to_all(block: Array) -> Array:
    """`lax.all_to_all`; floats of two bytes as the integers they are written as, since a CPU would widen them."""
    if block.dtype.itemsize != 2 or not jnp.issubdtype(block.dtype, jnp.floating):
        return lax.all_to_all(block, AXIS, 0, 0)
    sent = lax.all_to_all(lax.bitcast_convert_type(block, jnp.uint16), AXIS, 0, 0)
    return lax.bitcast_convert_type(sent, block.dtype)


class Table(NamedTuple):
    """How the units of one group travel, as tables of positions; an index past the end is padding.

    Dealers' units lie one dealer after another. L is the wire positions of one device's dealers, H x K those of all
    dealers in order.

    Attributes:
      rows_SxL: for every subnetwork: the rows, of the units that lie on this device, that it is sent.
      slot_SxHK: for every subnetwork and wire position: the slot it goes to.
      wire_SxM: for every subnetwork and slot: the wire position it comes from.
    """

    rows_SxL: Array
    slot_SxHK: Array | None = None
    wire_SxM: Array | None = None


class OneDevice:
    """All dealers and subnetworks in one memory: rows are gathered straight into their slots."""

    mesh: Mesh | None = None

    def spread(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`f` as it is."""
        return f

    def table(self, position_SxM: Array, hand: int, pair: int) -> Table:
        """Of units at `position_SxM`."""
        return Table(position_SxM)

    def own(self, stacked_S: Array) -> Array:
        """The rows of this device's subnetworks."""
        return stacked_S

    def total(self, value: Array) -> Array:
        """The sum over devices."""
        return value

    def swap(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """Every device's blocks, sent."""
        return blocks

    def outgoing(self, sent_S: Array) -> Array:
        """What `swap` takes, of the rows that every subnetwork is sent."""
        return sent_S

    def incoming(self, got: Array, axis: int, table: Table) -> Array:
        """The units in their slots, of what `swap` gave."""
        return got

    def returning(self, sub_S: Array, axis: int, table: Table) -> Array:
        """What `swap` takes, of subnetworks whose units go back."""
        return sub_S

    def returned(self, got: Array, axis: int, table: Table) -> Array:
        """The rows `table.rows_SxL`, of what `swap` gave."""
        return got


class OverMesh(OneDevice):
    """Dealers and subnetworks lie along the one axis `placement.AXIS` of a mesh; see `OneDevice` for the methods."""

    def __init__(self, mesh: Mesh, num_subnets: int, pack_below: int = PACK_BELOW):
        self.mesh, self.per_device, self.pack_below = mesh, num_subnets // mesh.size, pack_below

    def spread(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`f` on every device, on what lies there."""
        # check_vma cannot see that an unlabelled leaf is equal on all devices
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def own(self, stacked_S: Array) -> Array:
        return lax.dynamic_slice_in_dim(
            stacked_S, lax.axis_index(AXIS) * self.per_device, self.per_device
        )

    def total(self, value: Array) -> Array:
        return lax.psum(value, AXIS)

    def table(self, position_SxM: Array, hand: int, pair: int) -> Table:
        """Of units at `position_SxM`; a dealer has `hand` places, and K = `pair` units at most for a subnetwork."""
        num_subnets, slots = position_SxM.shape
        order_SxM = jnp.argsort(position_SxM, axis=1).astype(jnp.int32)
        sorted_SxM = jnp.take_along_axis(position_SxM, order_SxM, axis=1)
        dealer_SxM = sorted_SxM // hand  # padding is of no dealer
        count_SxH = jax.nn.one_hot(dealer_SxM, num_subnets, dtype=jnp.int32).sum(axis=1)
        first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
        first_SxM = jnp.take_along_axis(first_SxH, jnp.minimum(dealer_SxM, num_subnets - 1), axis=1)
        place_SxM = dealer_SxM * pair + jnp.arange(slots)[None] - first_SxM
        place_SxM = jnp.where(dealer_SxM < num_subnets, place_SxM, num_subnets * pair)
        wire_SxM = (
            jnp.zeros_like(place_SxM).at[jnp.arange(num_subnets)[:, None], order_SxM].set(place_SxM)
        )
        k_K = jnp.arange(pair)[None, None]
        at_SxHK = jnp.where(k_K < count_SxH[..., None], first_SxH[..., None] + k_K, slots).reshape(
            num_subnets, -1
        )
        pick = lambda fill: jax.vmap(
            lambda row, at: jnp.take(row, at, mode="fill", fill_value=fill)
        )
        return Table(
            self._local_rows(pick(num_subnets * hand)(sorted_SxM, at_SxHK), hand, pair),
            pick(slots)(order_SxM, at_SxHK),
            wire_SxM,
        )

    def _local_rows(self, position_SxHK: Array, hand: int, pair: int) -> Array:
        """The part of this device's dealers, counted from their first unit."""
        begin, here = lax.axis_index(AXIS) * self.per_device, self.per_device * hand
        position_SxL = lax.dynamic_slice_in_dim(
            position_SxHK, begin * pair, self.per_device * pair, axis=1
        )
        row_SxL = position_SxL - begin * hand
        return jnp.where(row_SxL < here, row_SxL, here)

    def swap(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """One `all_to_all` for each large block, and one for all small ones of a dtype."""
        small: dict[Any, list[int]] = {}
        for i, block in enumerate(blocks):
            key = block.dtype if block.size * block.dtype.itemsize < self.pack_below else i
            small.setdefault(key, []).append(i)
        got: dict[int, Array] = {}
        for members in small.values():
            flat = [blocks[i].reshape(self.mesh.size, -1) for i in members]
            together = jnp.concatenate(flat, axis=1) if len(flat) > 1 else flat[0]
            received = _all_to_all(together)
            parts = jnp.split(received, np.cumsum([part.shape[1] for part in flat])[:-1], axis=1)
            got |= {i: part.reshape(blocks[i].shape) for i, part in zip(members, parts)}
        return [got[i] for i in range(len(blocks))]

    def outgoing(self, sent_S: Array) -> Array:
        return sent_S.reshape(self.mesh.size, self.per_device, *sent_S.shape[1:])

    def incoming(self, got: Array, axis: int, table: Table) -> Array:
        wire_S = jnp.moveaxis(got, 0, axis + 1)  # devices in front of their wire positions
        wire_S = wire_S.reshape(*wire_S.shape[: axis + 1], -1, *wire_S.shape[axis + 3 :])
        return jax.vmap(lambda wire, position: take(wire, position, axis))(
            wire_S, self.own(table.wire_SxM)
        )

    def returning(self, sub_S: Array, axis: int, table: Table) -> Array:
        wire_S = jax.vmap(lambda sub, slot: take(sub, slot, axis))(sub_S, self.own(table.slot_SxHK))
        before, after = wire_S.shape[: axis + 1], wire_S.shape[axis + 2 :]
        return jnp.moveaxis(wire_S.reshape(*before, self.mesh.size, -1, *after), axis + 1, 0)

    def returned(self, got: Array, axis: int, table: Table) -> Array:
        return got.reshape(-1, *got.shape[2:])
