"""Independent Subnetwork Training, and what is a special case of it.

B. Yuan, C. R. Wolfe, C. Dun, Y. Tang, A. Kyrillidis, C. Jermaine: Distributed Learning of Fully Connected
Neural Networks using Independent Subnet Training, PVLDB 15(8), 2022 (arXiv 1910.02120).

A round: draw a partition, send every subnetwork its units, train each alone for J steps, write the units
back. Local SGD is IST with no groups (McMahan et al. 2017; Stich 2019). DiLoCo is local SGD with an outer
optimizer on the pseudo-gradient (Douillard et al., arXiv 2311.08105). An ensemble is S subnetworks that never
meet and whose logits are averaged.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.algorithms.base import Algorithm, Costs, Start, State, exchange_costs
from ist_jax.algorithms.evaluated import measured
from ist_jax.algorithms.optimizer_state import at_step, state_labels
from ist_jax.decompositions.base import Decomposition
from ist_jax.exchange import Exchange, ExchangeFactory, home_sharded, one_device, separate
from ist_jax.keys import named_key
from ist_jax.order import View, draw
from ist_jax.partition import Partition, partition
from ist_jax.placement import AXIS, Placement, vmapped
from ist_jax.subnet import extract, label_axes
from ist_jax.tasks.base import Task
from ist_jax.trees import leaf_shapes, shape_difference
from ist_jax.types import Array, Batch, Indices, Key, Metrics, Params, Variables

OPT_STATES = ("reset", "carry", "own")


def _input_sizes(decomposition: Decomposition) -> dict[str, int]:
    """The groups that label an axis of the batch."""
    named = {group for _, axes in decomposition.batch_rules for group in axes or () if group is not None}
    return {group: decomposition.partition.sizes[group] for group in named}


def _own_batch(decomposition: Decomposition, batch: Batch, indices: Indices) -> Batch:
    """What one subnetwork sees of a batch: all of it, or its share of split inputs."""
    labels = label_axes(batch, decomposition.batch_rules, _input_sizes(decomposition))
    return extract(batch, labels, indices)


def _check_subnet(decomposition: Decomposition, labels: Any, shapes: Params) -> None:
    """Raises ValueError if the subnetwork's model does not have the shapes that the rules give it."""
    indices = {group: index_SxM[0] for group, index_SxM in decomposition.partition.first().items()}
    example = decomposition.example
    if _input_sizes(decomposition):
        example = jax.eval_shape(lambda x: _own_batch(decomposition, {"x": x}, indices), example)["x"]
    given = jax.eval_shape(lambda params: extract(params, labels, indices), shapes)
    found = jax.eval_shape(decomposition.subnet.init, jax.random.key(0), example)["params"]
    if difference := shape_difference(leaf_shapes(found), leaf_shapes(given), ("in the subnetwork's model", "by the rules")):
        raise ValueError(
            f"a subnetwork has ceil(size / num_subnets) units of every group, and {difference}: mend one of the two"
        )


@dataclasses.dataclass(frozen=True)
class _Training:
    """The functions of `ist`, over its arguments and what follows from them."""

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    batch_size: int
    placement: Placement
    exchange: Exchange
    opt_state: str
    outer_tx: optax.GradientTransformation | None

    def init(self, key: Key, start: Start | None = None) -> State:
        parts = self.decomposition.partition
        if start is None:
            start = Start(self.decomposition.init(named_key(key, "init")), None, jnp.zeros((), jnp.int32))
        indices = parts.sample(named_key(key, "partition"), parts.first())
        store = self.exchange.init((start.params, self._carried(start)))
        own_S = ()
        if self.opt_state == "own":
            own_S = self._stacked(self._new_opt_states(self.exchange.pull(store, indices, indices)[0], start.step))
        outer_state = self.outer_tx.init(store[0]) if self.outer_tx else ()
        # + 0: an array of its own, for the state is donated and `start` may live on
        return self._placed(State(store, own_S, outer_state, indices, start.step + 0, jnp.zeros((), jnp.int32)))

    def _new_opt_states(self, params_S: Params, step: Array) -> Any:
        return jax.vmap(lambda params: at_step(self.tx.init(params), step))(params_S)

    def _carried(self, start: Start) -> Any:
        if self.opt_state != "carry":
            return ()
        return at_step(self.tx.init(start.params), start.step) if start.opt_state is None else start.opt_state

    def _stacked(self, tree_S: Any) -> Any:
        """Lays a stacked tree along the mesh, as the placement takes it."""
        if self.placement.mesh is None:
            return tree_S
        return jax.lax.with_sharding_constraint(tree_S, NamedSharding(self.placement.mesh, PartitionSpec(AXIS)))

    def _placed(self, state: State) -> State:
        """Replicates what neither the exchange nor the placement lays out, so that rounds keep their shardings."""
        if self.placement.mesh is None:
            return state
        fix = lambda tree: jax.lax.with_sharding_constraint(tree, self.placement.replicated)
        outer_state = state.outer_state
        if self.outer_tx is not None:  # lies as the parameters do
            lay, shardings = jax.lax.with_sharding_constraint, self.exchange.shardings[0]
            outer_state = optax.tree_utils.tree_map_params(self.outer_tx, lay, outer_state, shardings, transform_non_params=fix)
        return State(state.store, state.opt_state, outer_state, fix(state.indices), fix(state.step), fix(state.position))

    def round(self, state: State, view: View, key: Key, alive_S: Array, *, steps: int) -> tuple[State, Metrics]:
        indices = self.decomposition.partition.sample(named_key(key, "partition"), state.indices)
        pulled_S = self.exchange.pull(state.store, state.indices, indices)
        own_S = (pulled_S[0], self._opt_states(state, pulled_S), dict(indices), jnp.arange(alive_S.shape[0]))
        train = self.placement(functools.partial(self._train, steps))
        params_S, opt_S, loss_SxJ = train((view, named_key(key, "local"), state.position), own_S)
        pushed_S = (params_S, opt_S if self.opt_state == "carry" else ())
        store = self.exchange.push(state.store, pushed_S, indices, alive_S)
        store, outer_state = self._outer_step(state, store)
        own_opt_S = self._stacked(opt_S) if self.opt_state == "own" else ()
        position = state.position + steps * self.batch_size
        state = State(store, own_opt_S, outer_state, indices, state.step + steps, position)
        return self._placed(state), {"loss_SxJ": loss_SxJ}

    def _opt_states(self, state: State, pulled_S: tuple[Params, Any]) -> Any:
        params_S, carried_S = pulled_S
        if self.opt_state == "reset":
            return self._new_opt_states(params_S, state.step)
        return carried_S if self.opt_state == "carry" else state.opt_state

    def _train(self, steps: int, shared: tuple[View, Key, Array], own: tuple[Params, Any, Indices, Array]) -> Any:
        """`steps` local steps of one subnetwork, alone."""
        view, key, position = shared
        params, opt_state, indices, worker = own
        worker_key = jax.random.fold_in(key, worker)

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Array]:
            params, opt_state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(worker_key, j))
            index_B = draw(view, worker, position + j * self.batch_size, self.batch_size)
            batch = _own_batch(self.decomposition, self.task.batch(view.arrays, index_B, batch_key), indices)
            apply = self.decomposition.subnet.apply
            loss = lambda params: self.task.loss(apply, {"params": params}, batch, loss_key)
            (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = self.tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, opt_state), loss_J = jax.lax.scan(step, (params, opt_state), jnp.arange(steps))
        return params, opt_state, loss_J

    def _outer_step(self, state: State, store: Any) -> tuple[Any, Any]:
        """Douillard et al., Algorithm 1: the outer optimizer on what the round changed."""
        if self.outer_tx is None:
            return store, state.outer_state
        old, merged = state.store[0], store[0]
        pseudo_gradient = jax.tree.map(jnp.subtract, old, merged)
        updates, outer_state = self.outer_tx.update(pseudo_gradient, state.outer_state, old)
        return (optax.apply_updates(old, updates), store[1]), outer_state

    def params(self, state: State) -> Params:
        return self.exchange.params(state.store, state.indices)[0]

    def end(self, state: State) -> Start:
        params, opt_state = self.exchange.params(state.store, state.indices)
        return Start(params, opt_state if self.opt_state == "carry" else None, state.step)

    def variables(self, state: State, sample: Batch | None) -> Variables:
        return measured(self.decomposition.full, self.task, self.params(state), sample)

    def predict(self, variables: Variables, batch: Batch) -> Array:
        return self.task.logits(self.decomposition.full.apply, variables, batch)

    def subnet_variables(self, state: State, sample: Batch | None) -> Variables:
        def one(sample: Batch | None, own: tuple[Params, Indices]) -> Any:
            params, indices = own
            own_sample = None if sample is None else _own_batch(self.decomposition, sample, indices)
            return measured(self.decomposition.subnet, self.task, params, own_sample)

        params_S = self.exchange.pull(state.store, state.indices, state.indices)[0]
        indices = dict(state.indices)
        return {"variables": self.placement(one)(sample, (params_S, indices)), "indices": indices}

    def subnet_predict(self, variables_S: Variables, batch: Batch) -> Array:
        def one(batch: Batch, own: Any) -> Array:
            seen = _own_batch(self.decomposition, batch, own["indices"])
            return self.task.logits(self.decomposition.subnet.apply, own["variables"], seen)

        return self.placement(one)(batch, variables_S)

    def algorithm(self, costs: Costs) -> Algorithm:
        return Algorithm(
            init=self.init,
            round=jax.jit(self.round, static_argnames="steps", donate_argnums=0),
            variables=self.variables,
            predict=self.predict,
            subnet_variables=self.subnet_variables,
            subnet_predict=self.subnet_predict,
            params=self.params,
            end=self.end,
            num_workers=self.decomposition.num_subnets,
            batch_size=self.batch_size,
            costs=costs,
            sharding=self.placement.replicated,
        )


def drawn(parts: Partition, seed: int, rounds: int) -> list[Indices]:
    """The partitions of the first rounds of a run with this seed, without training."""
    root = jax.random.key(seed)
    indices, found = parts.sample(named_key(named_key(root, "init"), "partition"), parts.first()), []
    for round in range(rounds):
        indices = parts.sample(named_key(jax.random.fold_in(root, round), "partition"), indices)
        found.append(indices)
    return found


def ist(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
    exchange: ExchangeFactory | None = None,
    opt_state: str = "reset",
    outer_tx: optax.GradientTransformation | None = None,
) -> Algorithm:
    """Independent subnetwork training of `decomposition.num_subnets` subnetworks.

    Args:
      decomposition: how the model falls apart; one without groups makes this local SGD.
      task: loss, batch and metrics.
      tx: the local optimizer. Its learning-rate schedule runs on the global step.
      batch_size: examples of one local step of one subnetwork.
      placement: where subnetworks train; default vmapped on one device.
      exchange: factory of the exchange; default `home_sharded` on a mesh, otherwise `one_device`.
      opt_state: 'reset' starts the optimizer anew every round (the authors' releases); 'carry' moves its state
        with the units (averaged where several hold them; an entry held 1/S of the time then has an
        under-corrected second moment); 'own' leaves it with the worker, whose units then must not change.
      outer_tx: applied to params - merged after every round; None writes the merged parameters. Outer
        momentum also moves entries that nobody trained in the round.

    Raises:
      ValueError: an option outside its values, labels that do not fit, or a partition that a mesh refuses.
    """
    placement = placement or vmapped()
    parts = decomposition.partition
    if opt_state not in OPT_STATES:
        raise ValueError(f"opt_state is one of {OPT_STATES}, not {opt_state!r}")
    if opt_state == "own" and parts.sizes and parts.name != "fixed":
        raise ValueError("opt_state='own' stays with the worker while its units move on: use 'reset' or 'carry'")
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, parts.sizes)
    _check_subnet(decomposition, labels, shapes)
    exchanged = (labels, ()), (shapes, ())
    if opt_state == "carry":
        exchanged = (labels, state_labels(tx, labels, shapes)), (shapes, jax.eval_shape(tx.init, shapes))
    if exchange is None:
        exchange = functools.partial(home_sharded, mesh=placement.mesh) if placement.mesh else one_device
    moves = exchange(*exchanged, parts)
    if outer_tx is not None and not moves.synchronises:
        raise ValueError("an outer optimizer acts on what was exchanged, and these subnetworks never meet: outer_tx=None")
    training = _Training(decomposition, task, tx, batch_size, placement, moves, opt_state, outer_tx)
    return training.algorithm(exchange_costs(labels, shapes, exchanged, parts, moves.synchronises))


def ensemble(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
) -> Algorithm:
    """S subnetworks, contiguous slices of every group, that never meet; the prediction is the mean of their logits.

    Args: as of `ist`. The optimizer's state stays with its subnetwork; nothing is ever sent.
    """
    parts = decomposition.partition
    apart = decomposition._replace(partition=partition("fixed", parts.sizes, parts.num_subnets))
    placement = placement or vmapped()
    exchange = functools.partial(separate, mesh=placement.mesh)
    members = ist(apart, task, tx, batch_size=batch_size, placement=placement, exchange=exchange, opt_state="own")
    mean = lambda variables, batch: members.subnet_predict(variables, batch).mean(axis=0)
    return members._replace(variables=members.subnet_variables, predict=mean)
