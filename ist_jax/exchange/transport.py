"""Transport: how units are sent from their owners to the subnetworks and back.

Plain sharded indexing compiles to an all-gather of all units, S times the bytes that IST needs.
Here every owner sends every subnetwork one block of K units. The owner of a unit is its home, or
its holder if the unit is holder-sharded. Sending takes three steps: gather rows into blocks,
exchange equal blocks with one `all_to_all`, and move the received rows into the subnetwork's slots.
The way back inverts these steps.

With R devices, each sends (R - 1) / R of the bytes of its subnetworks. Blocks are padded where S^2
does not divide a group's size (`ist_jax.analysis.costs`).
"""

import functools
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

# Blocks below this many bytes share one collective; larger ones are not copied for it. On 8 CPU
# devices sharing takes 0.5 of the time at 64 KiB and 0.9 at 256 KiB, where the copy's memory is
# worth more (ist_jax.cli.benchmarks.rounds).
PACK_BELOW = 1 << 16


class SendTable(NamedTuple):
    """Where the units of one group are read and written, as tables of positions.

    An index past the end is padding. Positions count the places of all owners, one owner after
    another. A subnetwork receives H x K rows: a block of K from each of the H owners, in their
    order. L of these rows come from the owners on one device.

    Example: 2 owners with 2 places each, 2 subnetworks, K = 1, and a device for each owner and
    subnetwork. Owner 0 has the positions 0 and 1, owner 1 has 2 and 3. Subnetwork 0 needs position
    3 in its slot 0 and position 0 in its slot 1; subnetwork 1 needs 1 and 2:

        position_SxM = [[3, 0], [1, 2]]

    Subnetwork 0 receives the positions 0 and 3, subnetwork 1 receives 1 and 2. So the table has

        rows_SxL     [[0], [1]] on device 0: it sends subnetwork 0 its row 0, subnetwork 1 its row 1
                     [[1], [0]] on device 1: it sends subnetwork 0 its row 1, subnetwork 1 its row 0
        slot_SxHK    [[1, 0], [0, 1]]: the first row that subnetwork 0 receives goes to its slot 1
        received_SxM [[1, 0], [0, 1]]: slot 0 of subnetwork 0 gets the second row that it receives

    Attributes:
      rows_SxL: the rows of this device that each subnetwork is sent.
      slot_SxHK: for each subnetwork and received row, the slot that the row goes to.
      received_SxM: for each subnetwork and slot, the received row that the slot gets.
    """

    rows_SxL: Array
    slot_SxHK: Array | None = None
    received_SxM: Array | None = None


class LocalTransport:
    """All owners and subnetworks in one memory: rows are gathered straight into their slots."""

    mesh: Mesh | None = None

    def shard_mapped(
        self, f: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        """`f` as a function of what each device has."""
        del in_specs, out_specs
        return f

    def local(self, value_S: Array) -> Array:
        """The rows of this device's subnetworks."""
        return value_S

    def sum_over_devices(self, value: Array) -> Array:
        """The sum over devices of `value`."""
        return value

    def send_table(self, position_SxM: Array, places: int, pair: int) -> SendTable:
        """The table that brings the units at `position_SxM` into the slots of S subnetworks.

        Args:
          position_SxM: the position of the unit that each slot gets.
          places: number of places of one owner.
          pair: K, the largest number of units that one owner sends to one subnetwork.
        """
        del places, pair
        return SendTable(position_SxM)

    def all_to_all(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """Sends the blocks of all devices, and gives those that this device receives."""
        return blocks

    def pack(self, rows_S: Array) -> Array:
        """The blocks for `all_to_all` from the rows `table.rows_SxL`, [S, .., L, ..]."""
        return rows_S

    def unpack(self, received: Array, axis: int, table: SendTable) -> Array:
        """The units in their slots, [S / R, .., M, ..], from the received blocks."""
        del axis, table
        return received

    def pack_return(self, subparams_S: Array, axis: int, table: SendTable) -> Array:
        """The blocks for `all_to_all` that send the units of subnetworks back to their owners."""
        del axis, table
        return subparams_S

    def unpack_return(self, received: Array) -> Array:
        """The rows `table.rows_SxL`, [S, .., L, ..], from the received blocks."""
        return received


class MeshTransport(LocalTransport):
    """Owners and subnetworks are sharded over the axis `placement.AXIS` of a mesh of R devices."""

    def __init__(self, mesh: Mesh, num_subnets: int, pack_below: int = PACK_BELOW):
        """Blocks below `pack_below` bytes share one collective."""
        self.mesh, self.pack_below = mesh, pack_below
        self.num_devices = mesh.shape[AXIS]
        self.per_device = num_subnets // self.num_devices

    def shard_mapped(
        self, f: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        # check_vma cannot see that a leaf without a group is equal on all devices
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def local(self, value_S: Array) -> Array:
        begin = lax.axis_index(AXIS) * self.per_device
        return lax.dynamic_slice_in_dim(value_S, begin, self.per_device)

    def sum_over_devices(self, value: Array) -> Array:
        return lax.psum(value, AXIS)

    def send_table(self, position_SxM: Array, places: int, pair: int) -> SendTable:
        num_subnets, slots = position_SxM.shape
        # in order of positions, the units of one owner are neighbours
        slot_SxM = jnp.argsort(position_SxM, axis=1).astype(jnp.int32)
        sorted_SxM = jnp.take_along_axis(position_SxM, slot_SxM, axis=1)
        owner_SxM = sorted_SxM // places  # S for padding
        count_SxH = jax.nn.one_hot(owner_SxM, num_subnets, dtype=jnp.int32).sum(axis=1)
        place_SxM = received_places(owner_SxM, count_SxH, pair)
        subnet_Sx1 = jnp.arange(num_subnets)[:, None]
        received_SxM = jnp.zeros_like(place_SxM).at[subnet_Sx1, slot_SxM].set(place_SxM)
        position_SxHK = in_blocks(sorted_SxM, count_SxH, pair, num_subnets * places)
        slot_SxHK = in_blocks(slot_SxM, count_SxH, pair, slots)
        return SendTable(self._local_rows(position_SxHK, places, pair), slot_SxHK, received_SxM)

    def _local_rows(self, position_SxHK: Array, places: int, pair: int) -> Array:
        """The blocks of this device's owners, as rows that are counted from its first place."""
        first_owner, num_rows = lax.axis_index(AXIS) * self.per_device, self.per_device * places
        position_SxL = lax.dynamic_slice_in_dim(
            position_SxHK, first_owner * pair, self.per_device * pair, axis=1
        )
        row_SxL = position_SxL - first_owner * places
        return jnp.where(row_SxL < num_rows, row_SxL, num_rows)

    def all_to_all(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """One `all_to_all` for each large block, and one for all small ones of a dtype."""
        shared: dict[Any, list[int]] = {}
        for i, block in enumerate(blocks):
            is_small = block.size * block.dtype.itemsize < self.pack_below
            shared.setdefault(block.dtype if is_small else i, []).append(i)
        received: dict[int, Array] = {}
        for members in shared.values():
            flat = [blocks[i].reshape(self.num_devices, -1) for i in members]
            together = _all_to_all(jnp.concatenate(flat, axis=1) if len(flat) > 1 else flat[0])
            ends = np.cumsum([part.shape[1] for part in flat])[:-1]
            for i, part in zip(members, jnp.split(together, ends, axis=1)):
                received[i] = part.reshape(blocks[i].shape)
        return [received[i] for i in range(len(blocks))]

    def pack(self, rows_S: Array) -> Array:
        return rows_S.reshape(self.num_devices, self.per_device, *rows_S.shape[1:])

    def unpack(self, received: Array, axis: int, table: SendTable) -> Array:
        rows_S = jnp.moveaxis(received, 0, axis + 1)  # the sending device beside its rows
        rows_S = rows_S.reshape(*rows_S.shape[: axis + 1], -1, *rows_S.shape[axis + 3 :])
        assert table.received_SxM is not None  # a table of this class has all arrays
        return _take_each(rows_S, self.local(table.received_SxM), axis)

    def pack_return(self, subparams_S: Array, axis: int, table: SendTable) -> Array:
        assert table.slot_SxHK is not None  # a table of this class has all arrays
        rows_S = _take_each(subparams_S, self.local(table.slot_SxHK), axis)
        before, after = rows_S.shape[: axis + 1], rows_S.shape[axis + 2 :]
        by_device = rows_S.reshape(*before, self.num_devices, -1, *after)
        return jnp.moveaxis(by_device, axis + 1, 0)

    def unpack_return(self, received: Array) -> Array:
        return received.reshape(-1, *received.shape[2:])


def _all_to_all(block: Array) -> Array:
    """`lax.all_to_all`. Floats of two bytes are sent as integers, since a CPU would widen them."""
    if block.dtype.itemsize != 2 or not jnp.issubdtype(block.dtype, jnp.floating):
        return lax.all_to_all(block, AXIS, 0, 0)
    received = lax.all_to_all(lax.bitcast_convert_type(block, jnp.uint16), AXIS, 0, 0)
    return lax.bitcast_convert_type(received, block.dtype)


def _take_each(leaf_S: Array, index_SxI: Array, axis: int) -> Array:
    """For each subnetwork, the units `index_SxI[s]` along `axis` of `leaf_S[s]`."""
    return jax.vmap(lambda leaf, index: take(leaf, index, axis))(leaf_S, index_SxI)


def received_places(owner_SxM: Array, count_SxH: Array, pair: int) -> Array:
    """int32[S, M]: where each unit is among the H x K rows that its subnetwork receives.

    Args:
      owner_SxM: owners of the units that a subnetwork gets, sorted; H for padding.
      count_SxH: number of units of each owner.
      pair: K.
    """
    num_owners, slots = count_SxH.shape[1], owner_SxM.shape[1]
    first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
    first_SxM = jnp.take_along_axis(first_SxH, jnp.minimum(owner_SxM, num_owners - 1), axis=1)
    place_SxM = owner_SxM * pair + jnp.arange(slots)[None] - first_SxM
    return jnp.where(owner_SxM < num_owners, place_SxM, num_owners * pair)


def in_blocks(value_SxM: Array, count_SxH: Array, pair: int, fill: int) -> Array:
    """int32[S, H x K]: values of units that are sorted by owner, in a block of K for each owner.

    Args:
      value_SxM: one value per unit.
      count_SxH: number of units of each owner.
      pair: K.
      fill: value for the padding of blocks.
    """
    num_subnets, slots = value_SxM.shape
    first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
    k_K = jnp.arange(pair)[None, None]
    at_SxHxK = jnp.where(k_K < count_SxH[..., None], first_SxH[..., None] + k_K, slots)
    at_SxHK = at_SxHxK.reshape(num_subnets, -1)
    pick = functools.partial(jnp.take, mode="fill", fill_value=fill)
    return jax.vmap(pick)(value_SxM, at_SxHK)
