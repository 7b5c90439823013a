"""The exchange over a tree: packs every leaf (`leaves`), sends all blocks, unpacks every leaf."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ist_jax.core.assignment import home_size, homes
from ist_jax.core.partition import Partition
from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import is_label
from ist_jax.core.types import Array, Indices, Key, Params
from ist_jax.exchange import layout
from ist_jax.exchange.base import Exchange, Store
from ist_jax.exchange.codecs import codec_names
from ist_jax.exchange.leaves import HomeSharded, Transfer, make_leaf
from ist_jax.exchange.transport import LocalTransport, MeshTransport, SendTable

REPLICATED, BY_SUBNET = PartitionSpec(), PartitionSpec(AXIS)


def one_device(
    labels: Any, shapes: Any, partition: Partition, *, compressions: Any = "exact"
) -> Exchange:
    """The exchange in the memory of one device (the papers' centralised server).

    Args:
      labels: labels of the exchanged tree, from `subnet.label_axes`.
      shapes: the tree's arrays or ShapeDtypeStructs.
      partition: any partition.
      compressions: a name of `codecs.CODECS`, or a tree prefix of names. It applies to float leaves
        with groups.
    """
    return _make(labels, shapes, partition, LocalTransport(), compressions)


def over_mesh(
    labels: Any, shapes: Any, partition: Partition, mesh: Mesh, *, compressions: Any = "exact"
) -> Exchange:
    """The exchange over a mesh. No device ever stores all units.

    Args:
      labels: as in `one_device`.
      shapes: as in `one_device`.
      partition: 'balanced', 'blocks' (which may send mostly padding), or one without groups.
      mesh: has the axis `placement.AXIS` with R devices; R divides S.
      compressions: as in `one_device`.

    Raises:
      ValueError: R does not divide S, or the partition has no equal blocks.
    """
    num_subnets, num_devices = partition.num_subnets, mesh.shape[AXIS]
    if num_subnets % num_devices:
        raise ValueError(
            f"every device has equally many subnetworks: S={num_subnets} is no multiple of "
            f"{num_devices} devices; use a divisor"
        )
    if not partition.equal_blocks:
        raise ValueError(
            f"a mesh exchanges equal blocks, and the partition {partition.name!r} does not bound "
            "what one home sends to one subnetwork: use 'balanced' or 'blocks', or "
            "placement=looped or vmapped"
        )
    transport = MeshTransport(mesh, num_subnets)
    return _make(labels, shapes, partition, transport, compressions)


def _make(
    labels: Any, shapes: Any, partition: Partition, transport: LocalTransport, compressions: Any
) -> Exchange:
    # initial parameters are never rounded
    exact = _Leaves(labels, shapes, partition, transport, "exact")
    leaves = _Leaves(labels, shapes, partition, transport, compressions)
    return Exchange(
        exact.init,
        leaves.repartition,
        leaves.pull,
        leaves.push,
        leaves.params,
        leaves.stored_params,
        leaves.shardings(),
    )


class _Leaves:
    """The functions of an `Exchange` over a list of leaves."""

    def __init__(
        self,
        labels: Any,
        shapes: Any,
        partition: Partition,
        transport: LocalTransport,
        compressions: Any,
    ):
        flat, self.treedef = jax.tree.flatten(labels, is_leaf=is_label)
        columns = zip(flat, self.treedef.flatten_up_to(shapes), codec_names(compressions, shapes))
        self.leaves = [
            make_leaf(number, *column, partition, transport)
            for number, column in enumerate(columns)
        ]
        self.partition, self.transport = partition, transport
        self.specs = self.treedef.unflatten([leaf.spec for leaf in self.leaves])

    def _map(self, f: Callable[..., Array], tree: Any) -> Any:
        """The tree of `f(leaf, value)` over a tree of values."""
        values = self.treedef.flatten_up_to(tree)
        return self.treedef.unflatten(list(map(f, self.leaves, values)))

    def _send(
        self, pack: Callable[..., list[Array]], unpack: Callable[..., Array], *trees: Any
    ) -> Any:
        """Packs every leaf, sends the blocks of all leaves at once, and unpacks every leaf.

        Args:
          pack: (leaf, *values) -> blocks.
          unpack: (leaf, *values, received blocks) -> value.
          *trees: trees of values.
        """
        columns = list(zip(self.leaves, *map(self.treedef.flatten_up_to, trees)))
        blocks, treedef = jax.tree.flatten([pack(*column) for column in columns])
        received = treedef.unflatten(self.transport.all_to_all(blocks))
        return self.treedef.unflatten(
            [unpack(*column, received_blocks) for column, received_blocks in zip(columns, received)]
        )

    def shardings(self) -> Any:
        mesh = self.transport.mesh
        if mesh is None:
            return None
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), self.specs)

    def init(self, params: Params) -> Store:
        store = self._map(lambda leaf, value: leaf.lay_out(value), params)
        if self.transport.mesh is not None:
            store = lax.with_sharding_constraint(store, self.shardings())
        num_subnets = self.partition.num_subnets
        if num_subnets == 1:
            return store
        # Units start at their homes, so that every device initialises only its share.
        at_home = {group: homes(size, num_subnets) for group, size in self.partition.sizes.items()}
        return self.repartition(store, at_home, self.partition.first(), jax.random.key(0))

    def repartition(self, store: Store, indices: Indices, next_indices: Indices, key: Key) -> Store:
        if not self.partition.holder_sharded:
            return store
        in_specs = (self.specs, REPLICATED, REPLICATED, REPLICATED)
        run = self.transport.shard_mapped(self._repartition, in_specs, self.specs)
        return run(store, dict(indices), dict(next_indices), key)

    def _repartition(
        self, store: Store, indices: Indices, next_indices: Indices, key: Key
    ) -> Store:
        transfer = Transfer(self._holder_tables(indices, next_indices), next_indices, key)
        return self._send(
            lambda leaf, stored: leaf.pack_repartition(stored, transfer),
            lambda leaf, stored, received: leaf.unpack_repartition(stored, received, transfer),
            store,
        )

    def pull(self, store: Store, indices: Indices) -> Params:
        run = self.transport.shard_mapped(self._pull, (self.specs, REPLICATED), BY_SUBNET)
        return run(store, dict(indices))

    def _pull(self, store: Store, indices: Indices) -> Params:
        transfer = Transfer(self._home_tables(indices), indices)
        return self._send(
            lambda leaf, stored: leaf.pack_pull(stored, transfer),
            lambda leaf, stored, received: leaf.unpack_pull(stored, received, transfer),
            store,
        )

    def push(
        self,
        store: Store,
        pulled_S: Params,
        trained_S: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Store:
        in_specs = (self.specs, BY_SUBNET, BY_SUBNET, REPLICATED, REPLICATED, REPLICATED)
        run = self.transport.shard_mapped(self._push, in_specs, self.specs)
        return run(store, pulled_S, trained_S, dict(indices), weight_S, key)

    def _push(
        self,
        store: Store,
        pulled_P: Params,
        trained_P: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Store:
        transfer = Transfer(self._home_tables(indices), indices, key, weight_S)
        return self._send(
            lambda leaf, _, *values: leaf.pack_push(*values, transfer),
            lambda leaf, stored, _, *values: leaf.unpack_push(stored, *values, transfer),
            store,
            pulled_P,
            trained_P,
        )

    def params(self, store: Store, indices: Indices) -> Params:
        return self._map(lambda leaf, stored: leaf.to_original_order(stored, indices), store)

    def stored_params(self, store: Store, indices: Indices) -> Params:
        return self._map(lambda leaf, stored: leaf.to_storage_order(stored, indices), store)

    def _home_tables(self, indices: Indices) -> Mapping[str, SendTable]:
        """Send tables of home-sharded groups: the position of a unit is its index."""

        def table(group: str) -> SendTable:
            size, index_SxM = self.partition.sizes[group], indices[group]
            places = home_size(size, self.partition.num_subnets)
            past_the_end = self.partition.num_subnets * places
            position_SxM = jnp.where(index_SxM < size, index_SxM, past_the_end)
            return self.transport.send_table(
                position_SxM, places, self.partition.block_units(group)
            )

        groups = {leaf.group for leaf in self.leaves if isinstance(leaf, HomeSharded)}
        return {group: table(group) for group in sorted(groups)}

    def _holder_tables(self, indices: Indices, next_indices: Indices) -> Mapping[str, SendTable]:
        """Send tables of holder-sharded groups: the position of a unit is its current slot."""

        def table(group: str) -> SendTable:
            places = self.partition.slots[group]
            past_the_end = self.partition.num_subnets * places
            position_N = layout.positions(indices[group], self.partition.sizes[group])
            position_SxM = jnp.take(
                position_N, next_indices[group], mode="fill", fill_value=past_the_end
            )
            return self.transport.send_table(
                position_SxM, places, self.partition.block_units(group)
            )

        return {group: table(group) for group in sorted(self.partition.holder_sharded)}
