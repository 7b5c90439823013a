"""Transport: how units are sent from their owners to the subnetworks and back.

Plain sharded indexing compiles to an all-gather of all units: S times the bytes that IST needs.
Instead, every owner sends every subnetwork one block of K units. The owner of a unit is its home
or, if the unit is holder-sharded, its holder. Sending takes three steps: gather rows into blocks,
exchange equal blocks with one `all_to_all`, and move the received rows into the subnetwork's slots.
Returning units inverts these steps.

Each of R devices sends (R - 1) / R of the bytes of its subnetworks. Blocks are padded if S^2 does
not divide a group's size (`ist_jax.analysis.costs`).
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

# Blocks below this many bytes are copied into one collective. On 8 CPU devices, that takes 0.5
# times as long for blocks of 64 KiB, and 0.9 times as long for blocks of 256 KiB, which does not
# justify the memory of the copy (ist_jax.cli.benchmarks.rounds).
FUSE_BELOW = 1 << 16


class SendTable(NamedTuple):
    """Where the units of one group are read and written, as tables of positions.

    Every owner has places, which store one unit each. Positions number the places of all owners,
    one owner after another. A subnetwork receives H x K rows: a block of K rows from each of the H
    owners, in the order of the owners. L of these rows come from the owners on one device. An index
    past the end is padding.

    Example: 2 owners with 2 places each, 2 subnetworks, K = 1, and 2 devices, each with one owner
    and one subnetwork. Owner 0 has positions 0 and 1, owner 1 has 2 and 3. Subnetwork 0 needs
    position 3 in its slot 0 and position 0 in its slot 1; subnetwork 1 needs 1 and 2:

        position_SxM = [[3, 0], [1, 2]]

    Subnetwork 0 receives the units at 0 and 3, in this order; subnetwork 1 those at 1 and 2. So the
    table has

        rows_SxL     [[0], [1]] on device 0: it sends row 0 to subnetwork 0, row 1 to subnetwork 1
                     [[1], [0]] on device 1: it sends row 1 to subnetwork 0, row 0 to subnetwork 1
        slot_SxHK    [[1, 0], [0, 1]]: subnetwork 0 stores the first row it receives in its slot 1
        received_SxM [[1, 0], [0, 1]]: slot 0 of subnetwork 0 stores the second row received

    Attributes:
      rows_SxL: the rows that this device sends to each subnetwork.
      slot_SxHK: for each subnetwork, the slot of every received row.
      received_SxM: for each subnetwork, the received row that every slot stores.
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
        """`f` run on every device, on its part of the arguments."""
        del in_specs, out_specs
        return f

    def local(self, value_S: Array) -> Array:
        """[P, ..]: the rows of this device's subnetworks."""
        return value_S

    def sum_over_devices(self, value: Array) -> Array:
        """The sum of `value` over all devices."""
        return value

    def all_gather(self, value_P: Array) -> Array:
        """[S, ..]: the rows of all devices' subnetworks."""
        return value_P

    def send_table(self, position_SxM: Array, places: int, block_units: int) -> SendTable:
        """The table for sending the units at `position_SxM` to the slots of S subnetworks.

        Args:
          position_SxM: the position of the unit for each slot.
          places: number of places of one owner.
          block_units: K, the largest number of units that one owner sends to one subnetwork.
        """
        del places, block_units
        return SendTable(position_SxM)

    def all_to_all(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """Sends the blocks of this device, and returns those that it receives."""
        return blocks

    def pack(self, rows_S: Array) -> Array:
        """The blocks to send, from [S, .., L, ..], the gathered rows `table.rows_SxL`."""
        return rows_S

    def unpack(self, received: Array, axis: int, table: SendTable) -> Array:
        """[P, .., M, ..]: the units in their slots, from the received blocks."""
        del axis, table
        return received

    def pack_return(self, subparams_S: Array, axis: int, table: SendTable) -> Array:
        """The blocks that return the subnetworks' units to their owners."""
        del axis, table
        return subparams_S

    def unpack_return(self, received: Array) -> Array:
        """[S, .., L, ..]: the rows `table.rows_SxL`, from the returned blocks."""
        return received


class MeshTransport(LocalTransport):
    """Owners and subnetworks are sharded over the axis `placement.AXIS` of a mesh of R devices."""

    def __init__(self, mesh: Mesh, num_subnets: int, fuse_below: int = FUSE_BELOW):
        """Blocks below `fuse_below` bytes share one collective."""
        self.mesh, self.fuse_below = mesh, fuse_below
        self.num_devices = mesh.shape[AXIS]
        self.per_device = num_subnets // self.num_devices

    def shard_mapped(
        self, f: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        # check_vma=False: JAX cannot tell that leaves without groups are equal on all devices
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def local(self, value_S: Array) -> Array:
        begin = lax.axis_index(AXIS) * self.per_device
        return lax.dynamic_slice_in_dim(value_S, begin, self.per_device)

    def sum_over_devices(self, value: Array) -> Array:
        return lax.psum(value, AXIS)

    def all_gather(self, value_P: Array) -> Array:
        return lax.all_gather(value_P, AXIS, tiled=True)

    def send_table(self, position_SxM: Array, places: int, block_units: int) -> SendTable:
        num_subnets, slots = position_SxM.shape
        # sorted by position, the units of one owner are neighbours
        slot_SxM = jnp.argsort(position_SxM, axis=1).astype(jnp.int32)
        sorted_SxM = jnp.take_along_axis(position_SxM, slot_SxM, axis=1)
        owner_SxM = sorted_SxM // places  # S for padding
        count_SxH = jax.nn.one_hot(owner_SxM, num_subnets, dtype=jnp.int32).sum(axis=1)
        place_SxM = received_places(owner_SxM, count_SxH, block_units)
        subnet_Sx1 = jnp.arange(num_subnets)[:, None]
        received_SxM = jnp.zeros_like(place_SxM).at[subnet_Sx1, slot_SxM].set(place_SxM)
        position_SxHK = in_blocks(sorted_SxM, count_SxH, block_units, num_subnets * places)
        slot_SxHK = in_blocks(slot_SxM, count_SxH, block_units, slots)
        return SendTable(
            self._local_rows(position_SxHK, places, block_units), slot_SxHK, received_SxM
        )

    def _local_rows(self, position_SxHK: Array, places: int, block_units: int) -> Array:
        """The rows that this device's owners send, numbered from the device's first place."""
        first_owner, num_rows = lax.axis_index(AXIS) * self.per_device, self.per_device * places
        position_SxL = lax.dynamic_slice_in_dim(
            position_SxHK, first_owner * block_units, self.per_device * block_units, axis=1
        )
        row_SxL = position_SxL - first_owner * places
        return jnp.where(row_SxL < num_rows, row_SxL, num_rows)

    def all_to_all(self, blocks: Sequence[Array]) -> Sequence[Array]:
        """One collective for each large block, and one for all small blocks of a dtype."""
        shared: dict[Any, list[int]] = {}
        for i, block in enumerate(blocks):
            is_small = block.size * block.dtype.itemsize < self.fuse_below
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
        rows_S = jnp.moveaxis(received, 0, axis + 1)  # the axis of senders beside that of rows
        rows_S = rows_S.reshape(*rows_S.shape[: axis + 1], -1, *rows_S.shape[axis + 3 :])
        assert table.received_SxM is not None  # the tables of a MeshTransport have all arrays
        return _take_each(rows_S, self.local(table.received_SxM), axis)

    def pack_return(self, subparams_S: Array, axis: int, table: SendTable) -> Array:
        assert table.slot_SxHK is not None  # the tables of a MeshTransport have all arrays
        rows_S = _take_each(subparams_S, self.local(table.slot_SxHK), axis)
        before, after = rows_S.shape[: axis + 1], rows_S.shape[axis + 2 :]
        by_device = rows_S.reshape(*before, self.num_devices, -1, *after)
        return jnp.moveaxis(by_device, axis + 1, 0)

    def unpack_return(self, received: Array) -> Array:
        return received.reshape(-1, *received.shape[2:])


def _all_to_all(block: Array) -> Array:
    """`lax.all_to_all`. Two-byte floats are sent as integers, since XLA widens them on a CPU."""
    if block.dtype.itemsize != 2 or not jnp.issubdtype(block.dtype, jnp.floating):
        return lax.all_to_all(block, AXIS, 0, 0)
    received = lax.all_to_all(lax.bitcast_convert_type(block, jnp.uint16), AXIS, 0, 0)
    return lax.bitcast_convert_type(received, block.dtype)


def _take_each(leaf_S: Array, index_SxI: Array, axis: int) -> Array:
    """For each subnetwork, the units `index_SxI[s]` along `axis` of `leaf_S[s]`."""
    return jax.vmap(lambda leaf, index: take(leaf, index, axis))(leaf_S, index_SxI)


def received_places(owner_SxM: Array, count_SxH: Array, block_units: int) -> Array:
    """int32[S, M]: the place of each unit among the H x K rows that its subnetwork receives.

    Args:
      owner_SxM: the owners of the units that each subnetwork receives, sorted; H for padding.
      count_SxH: number of units that each subnetwork receives from each owner.
      block_units: K.
    """
    num_owners, slots = count_SxH.shape[1], owner_SxM.shape[1]
    first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
    first_SxM = jnp.take_along_axis(first_SxH, jnp.minimum(owner_SxM, num_owners - 1), axis=1)
    place_SxM = owner_SxM * block_units + jnp.arange(slots)[None] - first_SxM
    return jnp.where(owner_SxM < num_owners, place_SxM, num_owners * block_units)


def in_blocks(value_SxM: Array, count_SxH: Array, block_units: int, fill: int) -> Array:
    """int32[S, H x K]: the values of units, in a block of K for each owner.

    Args:
      value_SxM: one value per unit, sorted by owner.
      count_SxH: number of units that each subnetwork receives from each owner.
      block_units: K.
      fill: value for the padding of blocks.
    """
    num_subnets, slots = value_SxM.shape
    first_SxH = jnp.cumsum(count_SxH, axis=1) - count_SxH
    k_K = jnp.arange(block_units)[None, None]
    at_SxHxK = jnp.where(k_K < count_SxH[..., None], first_SxH[..., None] + k_K, slots)
    at_SxHK = at_SxHxK.reshape(num_subnets, -1)
    pick = functools.partial(jnp.take, mode="fill", fill_value=fill)
    return jax.vmap(pick)(value_SxM, at_SxHK)
