"""The exchange: every unit to its next holder, every leaf by the way that it rests (`resting`).

leaf                                  move          pull            push
one axis, of a travelling group       units sent    nothing         nothing
an axis of a resident group           nothing       units sent      units sent back
no group                              nothing       a copy          mean over the subnetworks
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ist_jax.core.partition import Partition, home_size, homes
from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import Label, extract_all, is_label, merge
from ist_jax.core.types import Array, Indices, Key, Params
from ist_jax.exchange import layout
from ist_jax.exchange.base import Exchange, Store
from ist_jax.exchange.codecs import EXACT, Format, each_leaf, format_of
from ist_jax.exchange.transport import OneDevice, OverMesh, Table


def _row_major(value: Array) -> Array:
    """`value`, laid out once: XLA would leave units in front, and every later reader would transpose them anew."""
    return with_layout_constraint(value, Layout(tuple(range(value.ndim))))


class _Leaf(NamedTuple):
    """One leaf of the exchanged tree: what it is, and how it rests and is sent."""

    number: int
    label: Label
    shape: tuple[int, ...]
    dtype: Any
    format: Format
    travelling: int | None  # axis
    home: tuple[int, str] | None

    def parts(self, axis: int, arrays: Sequence[Array]) -> list[tuple[Array, Label]]:
        """The arrays of an encoded leaf with their labels: scales have units along `axis` only."""
        alone = Label(
            tuple(group if a == axis else None for a, group in enumerate(self.label.axes))
        )
        return [(array, alone if i else self.label) for i, array in enumerate(arrays)]


def _leaf(number: int, label: Label, shape: Any, wire: str, partition: Partition) -> _Leaf:
    travelling = layout.travelling_axis(label, partition)
    home = layout.home_axis(label, partition) if label.groups and travelling is None else None
    format = format_of(wire, shape, home[0] if home else travelling, partition.num_subnets)
    return _Leaf(number, label, tuple(shape.shape), shape.dtype, format, travelling, home)


class _Units:
    """The functions of an `Exchange`, over a list of leaves."""

    def __init__(
        self, labels: Any, shapes: Any, partition: Partition, routes: OneDevice, wires: Any
    ):
        flat, self.treedef = jax.tree.flatten(labels, is_leaf=is_label)
        names = each_leaf(wires, shapes)
        make = functools.partial(_leaf, partition=partition)
        self.leaves = [
            make(i, *each)
            for i, each in enumerate(zip(flat, self.treedef.flatten_up_to(shapes), names))
        ]
        self.partition, self.routes, self.num_subnets = partition, routes, partition.num_subnets
        self.specs = [self._spec(leaf) for leaf in self.leaves]

    def _spec(self, leaf: _Leaf) -> PartitionSpec:
        if leaf.travelling is not None:
            return PartitionSpec(AXIS)
        return PartitionSpec(*[None] * leaf.home[0], AXIS) if leaf.home else PartitionSpec()

    def map(self, f: Callable[..., Array], *trees: Any) -> Any:
        """`f(leaf, *values)` over the trees, as a tree."""
        flat = [self.treedef.flatten_up_to(tree) for tree in trees]
        return self.treedef.unflatten(
            [f(leaf, *(values[leaf.number] for values in flat)) for leaf in self.leaves]
        )

    def tree_specs(self) -> Any:
        return self.treedef.unflatten(self.specs)

    def init(self, params: Params) -> Store:
        def lay(leaf: _Leaf, value: Array) -> Array:
            if leaf.travelling is not None:
                return layout.spread(value, leaf.travelling, self.num_subnets)
            if leaf.home is None or self.routes.mesh is None:
                return value
            axis = leaf.home[0]
            return layout.padded(
                value, axis, self.num_subnets * home_size(value.shape[axis], self.num_subnets)
            )

        store = self.map(lay, params)
        if self.routes.mesh is not None:
            store = lax.with_sharding_constraint(store, self.shardings())
        if self.num_subnets == 1:
            return store
        # laid by homes, so that every device draws its own share of a fresh initialisation, then dealt
        at_home = {
            group: homes(size, self.num_subnets) for group, size in self.partition.sizes.items()
        }
        return self.move(store, at_home, self.partition.first(), jax.random.key(0))

    def shardings(self) -> Any:
        mesh = self.routes.mesh
        return (
            None
            if mesh is None
            else jax.tree.map(lambda spec: NamedSharding(mesh, spec), self.tree_specs())
        )

    def _home_tables(self, indices: Indices) -> dict[str, Table]:
        """Of the groups that leaves rest along at home: a unit's position is its index."""

        def table(group: str) -> Table:
            size, index_SxM = self.partition.sizes[group], indices[group]
            home = home_size(size, self.num_subnets)
            position_SxM = jnp.where(index_SxM < size, index_SxM, self.num_subnets * home)
            return self.routes.table(position_SxM, home, self.partition.pair_units(group))

        return {
            group: table(group)
            for group in sorted({leaf.home[1] for leaf in self.leaves if leaf.home})
        }

    def _travelling_tables(self, indices: Indices, next_indices: Indices) -> dict[str, Table]:
        """Of the travelling groups: a unit's position is where its present holder has it."""

        def table(group: str) -> Table:
            slots, where = (
                self.partition.slots[group],
                layout.positions(indices[group], self.partition.sizes[group]),
            )
            position_SxM = jnp.take(
                where, next_indices[group], mode="fill", fill_value=self.num_subnets * slots
            )
            return self.routes.table(position_SxM, slots, self.partition.pair_units(group))

        return {group: table(group) for group in sorted(self.partition.travelling)}

    def _keys(self, leaf: _Leaf, key: Key) -> Array:
        """A key for every subnetwork on this device, whatever device it is."""
        own_S = self.routes.own(jnp.arange(self.num_subnets))
        return jax.vmap(lambda s: jax.random.fold_in(jax.random.fold_in(key, leaf.number), s))(
            own_S
        )

    def _encoded(self, leaf: _Leaf, axis: int, value_S: Array, key: Key) -> tuple[Array, ...]:
        """Stacked leaves, rounded stochastically, every subnetwork with a key of its own."""
        if leaf.format is EXACT:
            return (value_S,)
        return jax.vmap(lambda value, key: leaf.format.encode(value, axis, key))(
            value_S, self._keys(leaf, key)
        )

    def _sent(self, outgoing: list[list[Array]]) -> list[list[Array]]:
        """Every device's blocks, several for every leaf, over the wire."""
        blocks, treedef = jax.tree.flatten(outgoing)
        return treedef.unflatten(self.routes.swap(blocks))

    def move(self, store: Store, indices: Indices, next_indices: Indices, key: Key) -> Store:
        specs, same = self.tree_specs(), PartitionSpec()
        run = self.routes.spread(self._move, (specs, same, same, same), specs)
        return (
            run(store, dict(indices), dict(next_indices), key)
            if self.partition.travelling
            else store
        )

    def _move(self, store: Store, indices: Indices, next_indices: Indices, key: Key) -> Store:
        values = self.treedef.flatten_up_to(store)
        moving = [leaf for leaf in self.leaves if leaf.travelling is not None]
        tables = self._travelling_tables(indices, next_indices)

        def outgoing(leaf: _Leaf) -> list[Array]:
            axis, group = leaf.label.groups[0]
            arrays = self._encoded(leaf, axis, values[leaf.number], key)
            rows = {group: tables[group].rows_SxL}
            send = lambda part, label: extract_all(
                layout.gathered(part, axis), label, rows, self.num_subnets
            )
            return [self.routes.outgoing(send(*part)) for part in leaf.parts(axis, arrays)]

        for leaf, got in zip(moving, self._sent([outgoing(leaf) for leaf in moving])):
            axis, group = leaf.label.groups[0]
            values[leaf.number] = self._decoded(leaf, axis, got, tables[group])
        return self.treedef.unflatten(values)

    def _decoded(self, leaf: _Leaf, axis: int, got: Sequence[Array], table: Table) -> Array:
        """The units of a leaf in their slots, [P, .., M, ..]."""
        return _row_major(
            leaf.format.decode(
                tuple(self.routes.incoming(block, axis, table) for block in got), leaf.dtype
            )
        )

    def pull(self, store: Store, indices: Indices) -> Params:
        run = self.routes.spread(
            self._pull, (self.tree_specs(), PartitionSpec()), PartitionSpec(AXIS)
        )
        return run(store, dict(indices))

    def _pull(self, store: Store, indices: Indices) -> Params:
        values = self.treedef.flatten_up_to(store)
        tables, at_home = self._home_tables(indices), [leaf for leaf in self.leaves if leaf.home]

        def outgoing(leaf: _Leaf) -> list[Array]:
            arrays = leaf.format.encode(values[leaf.number], leaf.home[0], None)
            send = lambda part, label: extract_all(
                part, label, self._rows(leaf, label, tables, indices), self.num_subnets
            )
            return [self.routes.outgoing(send(*part)) for part in leaf.parts(leaf.home[0], arrays)]

        for leaf, got in zip(at_home, self._sent([outgoing(leaf) for leaf in at_home])):
            values[leaf.number] = self._decoded(leaf, leaf.home[0], got, tables[leaf.home[1]])
        here = self.routes.own(jnp.arange(self.num_subnets)).size
        copies = lambda leaf, value: (
            value if leaf.label.groups else jnp.broadcast_to(value, (here, *value.shape))
        )
        return self.map(copies, self.treedef.unflatten(values))

    def _rows(
        self, leaf: _Leaf, label: Label, tables: Mapping[str, Table], indices: Indices
    ) -> Indices:
        """Indices into a leaf at home: rows on this device along its resting axis, units on any other."""
        others = {group: indices[group] for _, group in label.groups if group != leaf.home[1]}
        return {leaf.home[1]: tables[leaf.home[1]].rows_SxL} | others

    def push(
        self,
        store: Store,
        pulled_S: Params,
        trained_S: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Store:
        specs, stacked, same = self.tree_specs(), PartitionSpec(AXIS), PartitionSpec()
        run = self.routes.spread(self._push, (specs, stacked, stacked, same, same, same), specs)
        return run(store, pulled_S, trained_S, dict(indices), weight_S, key)

    def _push(
        self,
        store: Store,
        pulled_S: Params,
        trained_S: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Store:
        values, before, after = map(self.treedef.flatten_up_to, (store, pulled_S, trained_S))
        tables, at_home = self._home_tables(indices), [leaf for leaf in self.leaves if leaf.home]

        def outgoing(leaf: _Leaf) -> list[Array]:
            (axis, group), new_S = leaf.home, after[leaf.number]
            value_S = new_S - before[leaf.number] if leaf.format.differences else new_S
            arrays = self._encoded(leaf, axis, value_S, key)
            return [self.routes.returning(part, axis, tables[group]) for part in arrays]

        for leaf, got in zip(at_home, self._sent([outgoing(leaf) for leaf in at_home])):
            values[leaf.number] = self._written(
                leaf, values[leaf.number], got, tables, indices, weight_S
            )
        others = [leaf for leaf in self.leaves if not leaf.home]
        for leaf in others:
            values[leaf.number] = self._kept(
                leaf, values[leaf.number], after[leaf.number], weight_S
            )
        return self.treedef.unflatten(values)

    def _written(
        self,
        leaf: _Leaf,
        value: Array,
        got: Sequence[Array],
        tables: Mapping[str, Table],
        indices: Indices,
        weight_S: Array,
    ) -> Array:
        """A leaf at home with what came back: the units themselves, or differences."""
        axis, group = leaf.home
        arrays = tuple(self.routes.returned(block, axis, tables[group]) for block in got)
        got_S, rows = (
            leaf.format.decode(arrays, leaf.dtype),
            self._rows(leaf, leaf.label, tables, indices),
        )
        put = lambda old: merge(
            old, got_S, leaf.label, rows, weight_S, disjoint=self.partition.disjoint
        )
        if not leaf.format.differences:
            return put(value)
        return value + put(jnp.full_like(value, -0.0))  # -0.0 + x is x to the last bit

    def _kept(self, leaf: _Leaf, value: Array, trained_S: Array, weight_S: Array) -> Array:
        """A leaf that is not sent back: it stays with its holders, or is shared."""
        own_S = self.routes.own(weight_S).reshape((-1,) + (1,) * (trained_S.ndim - 1))
        if leaf.travelling is not None:
            return jnp.where(own_S, trained_S, value)
        if not leaf.label.averaged:
            return trained_S[0]
        # where, not a product: a lost subnetwork may hold nan
        total = self.routes.total(jnp.where(own_S, trained_S, 0).sum(axis=0))
        count = weight_S.sum().astype(value.dtype)
        return jnp.where(count > 0, total / jnp.maximum(count, 1), value).astype(value.dtype)

    def params(self, store: Store, indices: Indices) -> Params:
        return self.map(
            lambda leaf, value: layout.in_order(
                value, leaf.label, leaf.shape, self.partition, indices
            ),
            store,
        )

    def lying(self, store: Store, indices: Indices) -> Params:
        return self.map(
            lambda leaf, value: layout.as_it_lies(value, leaf.label, self.partition, indices), store
        )

    def exchange(self, init: Callable[[Params], Store]) -> Exchange:
        return Exchange(
            init, self.move, self.pull, self.push, self.params, self.lying, self.shardings()
        )


def one_device(labels: Any, shapes: Any, partition: Partition, *, wires: Any = "exact") -> Exchange:
    """The exchange in one device's memory (the papers' centralised server).

    Args:
      labels: labels of the tree to exchange, from `subnet.label_axes`.
      shapes: that tree's arrays or ShapeDtypeStructs.
      partition: any.
      wires: a name of `formats.FORMATS`, or a tree prefix of names; for float leaves with groups.
    """
    return _exchange(labels, shapes, partition, OneDevice(), wires)


def _exchange(
    labels: Any, shapes: Any, partition: Partition, routes: OneDevice, wires: Any
) -> Exchange:
    exact = _Units(
        labels, shapes, partition, routes, "exact"
    )  # nothing is rounded before the first round
    return _Units(labels, shapes, partition, routes, wires).exchange(exact.init)


def over_mesh(
    labels: Any, shapes: Any, partition: Partition, mesh: Mesh, *, wires: Any = "exact"
) -> Exchange:
    """The exchange over `mesh`, which has the one axis `placement.AXIS`; no device ever holds all units.

    Args: as of `one_device`, and
      partition: 'balanced' or 'blocks' (whose blocks on the wire may be mostly padding), or without groups.
      mesh: R devices, R divides S.

    Raises:
      ValueError: R does not divide S, or the partition has no equal blocks.
    """
    if partition.num_subnets % mesh.size:
        raise ValueError(
            f"every device carries as many subnetworks: S={partition.num_subnets} is no multiple of {mesh.size} devices"
        )
    if not partition.equal_blocks:
        raise ValueError(
            f"a mesh exchanges equal blocks, and the partition {partition.name!r} does not bound what one home sends to one "
            "subnetwork: use 'balanced' (or 'blocks'), or placement=looped or vmapped"
        )
    return _exchange(labels, shapes, partition, OverMesh(mesh, partition.num_subnets), wires)
