"""SparseLoCo: DiLoCo that sends the largest entries of its pseudo-gradients.

A. Sarfi, B. Thérien, J. Lidin, E. Belilovsky: Communication Efficient LLM Pre-training with
SparseLoCo, 2025 (arXiv 2508.15706, Algorithm 1).

After J local steps, worker s adds its pseudo-gradient (the parameters before them minus those
after) to an error buffer, and sends the largest entries of every chunk of it, rounded to 2 bits.
What is not sent stays in the buffer for later rounds:

    wanted_s = beta error_s + pseudo-gradient_s
    sent_s   = round(top-k(wanted_s))
    error_s  = wanted_s - sent_s

The outer optimizer takes the mean of what was sent as its gradient. It is SGD without momentum: the
error buffers stand in for outer momentum.

Every worker sends its message to all others, in one all-gather of values, scales and positions. The
paper counts 12 bits per position; here they are sent as 16.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.analysis.costs import LeafCost, all_reduce_bytes
from ist_jax.core.decomposition import Decomposition, replicated
from ist_jax.core.placement import AXIS, Placement
from ist_jax.core.subnet import per_subnet
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array, Indices, Key, Params
from ist_jax.exchange import Exchange
from ist_jax.exchange.sparse import VALUES, Message, SparseCodec, sparse_codec
from ist_jax.exchange.transport import LocalTransport, MeshTransport
from ist_jax.methods.base import Method
from ist_jax.methods.costs import with_leaves
from ist_jax.methods.exchanged import Exchanged
from ist_jax.methods.ist import Ist, fields_of

REPLICATED, BY_SUBNET = PartitionSpec(), PartitionSpec(AXIS)


class SparseStore(NamedTuple):
    """The store of the sparse exchange.

    Attributes:
      params: the global parameters.
      error_S: the error buffers of the workers, stacked along a leading axis S.
    """

    params: Params
    error_S: Params


@dataclasses.dataclass(frozen=True)
class _Sparse:
    """The functions of the `Exchange`.

    Attributes:
      codecs: a `SparseCodec` for every parameter, in the order of the tree.
      feedback: beta.
      num_workers: S.
      transport: how messages are sent.
    """

    codecs: tuple[SparseCodec, ...]
    feedback: float
    num_workers: int
    transport: LocalTransport

    def init(self, tree: Exchanged) -> SparseStore:
        zeros = lambda leaf: jnp.zeros((self.num_workers, *leaf.shape), leaf.dtype)
        error_S = jax.tree.map(zeros, tree.params)
        if self.transport.mesh is not None:
            sharding = NamedSharding(self.transport.mesh, BY_SUBNET)
            error_S = jax.lax.with_sharding_constraint(error_S, sharding)
        return SparseStore(tree.params, error_S)

    def repartition(
        self, store: SparseStore, indices: Indices, next_indices: Indices, key: Key
    ) -> SparseStore:
        del indices, next_indices, key
        return store

    def pull(self, store: SparseStore, indices: Indices) -> Exchanged:
        del indices
        stack = lambda leaf: jnp.broadcast_to(leaf, (self.num_workers, *leaf.shape))
        return Exchanged(jax.tree.map(stack, store.params))

    def push(
        self,
        store: SparseStore,
        pulled_S: Exchanged,
        trained_S: Exchanged,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> SparseStore:
        del indices, key
        stored = SparseStore(REPLICATED, BY_SUBNET)
        in_specs = (stored, BY_SUBNET, BY_SUBNET, REPLICATED)
        run = self.transport.shard_mapped(self._push, in_specs, stored)
        return run(store, pulled_S.params, trained_S.params, weight_S)

    def _push(
        self, store: SparseStore, pulled_P: Params, trained_P: Params, weight_S: Array
    ) -> SparseStore:
        params, treedef = jax.tree.flatten(store.params)
        change_P = jax.tree.map(jnp.subtract, pulled_P, trained_P)  # the pseudo-gradients
        trees = map(treedef.flatten_up_to, (store.error_S, change_P))
        push_leaf = functools.partial(self._push_leaf, weight_S)
        leaves = map(push_leaf, self.codecs, params, *trees)
        return SparseStore(*map(treedef.unflatten, zip(*leaves)))

    def _push_leaf(
        self, weight_S: Array, codec: SparseCodec, old: Array, error_P: Array, change_P: Array
    ) -> tuple[Array, Array]:
        """(the parameter minus the mean of what was sent, the error buffers)."""
        wanted_P = self.feedback * error_P + change_P
        message_P = jax.vmap(codec.encode)(wanted_P)
        weight_P = per_subnet(self.transport.local(weight_S), error_P).astype(old.dtype)
        left_P = wanted_P - weight_P * jax.vmap(codec.decode)(message_P)
        message_S = jax.tree.map(self.transport.all_gather, message_P)

        def add(total: Array, sent: tuple[Message, Array]) -> tuple[Array, None]:
            message, weight = sent
            part = weight.astype(old.dtype) * codec.decode(message)
            return total + jnp.where(weight > 0, part, 0), None  # a failed worker may have nan

        total, _ = jax.lax.scan(add, jnp.zeros_like(old), (message_S, weight_S))
        count = jnp.maximum((weight_S > 0).sum(), 1).astype(old.dtype)
        return old - total / count, jnp.where(weight_P > 0, left_P, error_P)

    def params(self, store: SparseStore, indices: Indices) -> Exchanged:
        del indices
        return Exchanged(store.params)

    def exchange(self, shapes: Params) -> Exchange:
        """The exchange of parameters of these shapes."""
        mesh, shardings = self.transport.mesh, None
        if mesh is not None:
            shardings = Exchanged(jax.tree.map(lambda _: NamedSharding(mesh, REPLICATED), shapes))
        functions = (self.init, self.repartition, self.pull, self.push, self.params, self.params)
        return Exchange(*functions, shardings)


def _leaf_cost(name: str, codec: SparseCodec, num_workers: int) -> LeafCost:
    """What an all-gather sends: a device passes on the messages of all workers but one."""
    ring = all_reduce_bytes(math.prod(codec.shape) * codec.dtype.itemsize, num_workers)
    return LeafCost(name, "sparse", float((num_workers - 1) * codec.message_bytes), ring, ring)


def _check(density: float, chunk: int, values: str, feedback: float) -> None:
    if not 0 < density <= 1 or chunk < 1 or not 0 <= feedback <= 1 or values not in VALUES:
        raise ValueError(
            "density is above 0 and at most 1, chunk at least 1, feedback from 0 to 1 and values "
            f"one of {tuple(VALUES)}, not {density:g}, {chunk}, {feedback:g} and {values!r}"
        )


def sparse_loco(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    density: float = 0.02,
    chunk: int = 4096,
    values: str = "int2",
    feedback: float = 0.95,
    outer_tx: optax.GradientTransformation | None = None,
    placement: Placement | None = None,
) -> Method:
    """SparseLoCo on the full model. The decomposition's groups are not used.

    With density=1 and values='exact', it is DiLoCo with the same `outer_tx`, to rounding.

    Args:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the inner optimizer, AdamW in the paper. Its state stays with its worker.
      num_workers: S.
      batch_size: examples per local step of one worker.
      density: the share of entries that a worker sends; at least one of every chunk.
      chunk: C, entries of a chunk.
      values: how entries are sent: 'exact', 'int8' or 'int2', with a scale per chunk.
      feedback: beta, the decay of error buffers.
      outer_tx: the outer optimizer; None: SGD of rate 1, which subtracts the mean of what was sent.
      placement: see `ist`.

    Raises:
      ValueError: `density`, `chunk`, `values` or `feedback` is out of range; also as in `ist`.
    """
    _check(density, chunk, values, feedback)
    fields = fields_of(
        lambda labels, shapes: [frozenset(leaf_names(shapes.params))],
        replicated(decomposition, num_workers),
        task,
        tx,
        batch_size=batch_size,
        placement=placement,
        opt_state="local",
        outer_tx=outer_tx or optax.sgd(1.0),
    )
    info, mesh = fields["info"], fields["placement"].mesh
    shapes = fields["facts"].params
    make = functools.partial(sparse_codec, density=density, chunk=chunk, values=values)
    codecs = tuple(map(make, jax.tree.leaves(shapes)))
    names, (turn,) = leaf_names(shapes), info.turns
    leaves = [_leaf_cost(name, codec, num_workers) for name, codec in zip(names, codecs)]
    costs = with_leaves(turn.costs, leaves, num_workers)
    transport = LocalTransport() if mesh is None else MeshTransport(mesh, num_workers)
    fields["info"] = info._replace(turns=(turn._replace(costs=costs),))
    fields["exchange"] = _Sparse(codecs, feedback, num_workers, transport).exchange(shapes)
    return Ist(**fields)
