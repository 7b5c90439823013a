"""The round that IST, local SGD, DiLoCo and ensembles share.

It plans the units of every subnetwork, pulls them, trains each subnetwork alone for J steps, pushes
the units back, and applies the outer optimizer to the change.

A round need not push all parameters. Every worker keeps a copy of those that some rounds do not
push, and continues with it in the next round. After a push, it adopts the merged value. A worker
that fails keeps its copy; if it fails in a round that pushes, it adopts what the others merged. If
all workers fail, all keep their copies.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.keys import named_key
from ist_jax.core.placement import AXIS, Placement
from ist_jax.core.sample_order import View, draw, local_part
from ist_jax.core.task import Task
from ist_jax.core.types import Array, Batch, Indices, Key, Metrics, Params
from ist_jax.exchange import Exchange, Store
from ist_jax.methods.base import Method
from ist_jax.methods.exchanged import Exchanged, blend_copies, fill, owners, pick
from ist_jax.methods.local_batch import local_batch
from ist_jax.methods.local_step import (
    Measured,
    by_name,
    loss_and_gradient,
    optimizer_step,
    trained_weight,
    unless_failed,
)
from ist_jax.methods.optimizer_facts import StateFacts, parameter_numbers
from ist_jax.methods.optimizer_state import (
    at_step,
    check_first_step,
    check_period,
    check_weighted,
    ticking,
)
from ist_jax.methods.outer import Outer
from ist_jax.methods.output_shapes import output_shapes
from ist_jax.methods.predictor import Predictor
from ist_jax.methods.state import Start, State, Worker, first_counters
from ist_jax.methods.subnet_predictors import SubnetPredictors

OPT_STATES = ("reset", "carry", "local")


@dataclasses.dataclass(frozen=True, eq=False)
class SubnetMethod(Method):
    """A method whose workers train subnetworks, or copies, alone and synchronise once per round.

    Attributes:
      decomposition: how the model is split.
      task: the problem to solve.
      tx: the local optimizer.
      placement: where subnetworks train.
      exchange: the exchange of parameters and carried optimizer state.
      opt_state: 'reset', 'carry' or 'local'; see `ist`.
      facts: what the local optimizer's state holds.
      outer: the outer optimizer; None: the pushed parameters are the new ones.
      copied: the names of the parameters of which every worker keeps a copy between rounds. They
        include all parameters that some round of the cycle does not push.
    """

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    placement: Placement
    exchange: Exchange
    opt_state: str
    facts: StateFacts
    outer: Outer | None = None
    copied: frozenset[str] = frozenset()

    def check_local_steps(self, steps: int) -> None:
        check_period(self.facts, self.opt_state, steps)

    def check_first_step(self, step: int) -> None:
        check_first_step(self.facts, step)

    def _round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int, turn: int = 0
    ) -> tuple[State, Metrics]:
        state = self._repartition(state, self.plan(state, key), named_key(key, "move"))
        pulled_S = self.pull(state)
        opt_S = self._opt_states(state, pulled_S)
        params_S, opt_S, measured_SxJ = self._train(
            state, pulled_S.params, opt_S, view, key, range(steps), turn
        )
        trained_S = Exchanged(params_S, opt_S if self.opt_state == "carry" else ())
        trained_weight_S = trained_weight(weight_S, measured_SxJ)
        state = self._synchronised(
            state, pulled_S, trained_S, trained_weight_S, named_key(key, "push"), turn
        )
        state = state._replace(
            opt_state=self._kept_by_workers(state, opt_S, weight_S),
            step=state.step + steps,
            round=state.round + 1,
            position=state.position + steps * self.info.batch_size,
        )
        return self._placed(state), by_name(measured_SxJ)

    def pull(self, state: State) -> Exchanged:
        """The trees that each worker trains, stacked: its copies, and all else from the store."""
        return fill(state.copies_S, self.exchange.pull(state.store, state.indices))

    def _synchronised(
        self,
        state: State,
        pulled_S: Exchanged,
        trained_S: Exchanged,
        weight_S: Array,
        key: Key,
        turn: int,
    ) -> State:
        """The state after workers have pushed what this round of the cycle pushes."""
        pushed = self.info.turns[turn].pushed
        store = self.exchange.push(state.store, pulled_S, trained_S, state.indices, weight_S, key)
        if self.copied:  # the other merged values are not read, so no device sends them
            store = fill(pick(store, owners(store), {*pushed, ""}), state.store)
        if self.outer is not None:
            given = (state.outer_state, state.store.params, store.params, pushed)
            params, outer_state = self.outer.update(*given)
            store, state = store._replace(params=params), state._replace(outer_state=outer_state)
        state = state._replace(store=store)
        if not self.copied:
            return state
        copies_S = blend_copies(pulled_S, trained_S, self.copied, weight_S)
        adopted_S = self._adopted(state, copies_S, pushed)
        is_merged = (weight_S > 0).any()
        choose = lambda adopted, copy: jnp.where(is_merged, adopted, copy)
        return state._replace(copies_S=jax.tree.map(choose, adopted_S, copies_S))

    def _adopted(self, state: State, copies_S: Exchanged, pushed: frozenset[str]) -> Exchanged:
        """The copies, with the merged values of those that were pushed."""
        merged_S = self.exchange.pull(state.store, state.indices)
        return fill(pick(merged_S, owners(merged_S), pushed & self.copied), copies_S)

    def _repartition(self, state: State, indices: Indices, key: Key) -> State:
        """The state with units at `indices`; holder-sharded units move to their next holders."""
        move = (state.indices, indices, key)
        store, outer_state = self.exchange.repartition(state.store, *move), state.outer_state
        if self.outer is not None:
            outer_state = self.outer.exchange.repartition(outer_state, *move)
        return state._replace(store=store, outer_state=outer_state, indices=indices)

    def _train(
        self,
        state: State,
        params_S: Params,
        opt_S: Any,
        view: View,
        key: Key,
        steps: range,
        turn: int,
    ) -> tuple[Params, Any, Measured]:
        """(params, optimizer states, losses and weights) after these local steps of all."""
        del turn
        indices, number_S = dict(state.indices), jnp.arange(self.info.num_workers)
        worker_S = Worker(params_S, opt_S, indices, number_S)
        train = self.placement(functools.partial(self._steps_of_one, steps))
        return train((view, named_key(key, "local"), state.position), worker_S)

    def _steps_of_one(
        self, steps: range, shared: tuple[View, Key, Array], worker: Worker
    ) -> tuple[Params, Any, Measured]:
        """(params, opt_state, losses and weights [J]) after the local steps of one subnetwork."""
        view, key, position = shared
        worker_key = jax.random.fold_in(key, worker.number)
        ticks = ticking(self.facts, self.opt_state)

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Measured]:
            params, opt_state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(worker_key, j))
            start = position + j * self.info.batch_size
            index_B = draw(view, worker.number, start, self.info.batch_size)
            batch = self.task.batch(view.arrays, index_B, batch_key)
            batch = local_batch(self.decomposition, batch, worker.indices)
            measured, gradient = loss_and_gradient(
                self.task, self.decomposition.subnet, params, batch, loss_key
            )
            weight = measured.get("weight")
            if weight is not None:
                check_weighted(self.facts, self.opt_state)
            return optimizer_step(self.tx, gradient, params, opt_state, weight, ticks), measured

        first = (worker.params, worker.opt_state)
        step_J = jnp.arange(steps.start, steps.stop)
        (params, opt_state), measured_J = jax.lax.scan(step, first, step_J)
        return params, opt_state, measured_J

    def init(self, key: Key, start: Start | None = None) -> State:
        if start is None:
            start = Start(self.decomposition.init(named_key(key, "init")))
        indices = self.decomposition.partition.first()
        store = self.exchange.init(Exchanged(start.params, self._carried(start)))
        pulled_S, opt_state = self.exchange.pull(store, indices), ()
        if self.opt_state == "local":
            opt_state = self._stacked(self._new_opt_states(pulled_S.params, start.step))
        outer_state = self.outer.init(store.params) if self.outer else ()
        copies_S = pick(pulled_S, owners(pulled_S), self.copied)
        counters = first_counters(start)
        return self._placed(State(store, opt_state, outer_state, indices, *counters, copies_S))

    def _carried(self, start: Start) -> Any:
        if self.opt_state != "carry":
            return ()
        if start.opt_state is None:
            return at_step(self.tx.init(start.params), start.step, self.facts)
        return start.opt_state

    def _new_opt_states(self, params_S: Params, step: Array) -> Any:
        fresh = lambda params: at_step(self.tx.init(params), step, self.facts)
        return jax.vmap(fresh)(params_S)

    def _opt_states(self, state: State, pulled_S: Exchanged) -> Any:
        """The states of the local optimizers at the start of a round."""
        if self.opt_state == "reset":
            return self._new_opt_states(pulled_S.params, state.step)
        return pulled_S.opt_state if self.opt_state == "carry" else state.opt_state

    def _kept_by_workers(self, state: State, opt_S: Any, weight_S: Array) -> Any:
        """The optimizer states that workers keep until the next round."""
        if self.opt_state != "local":
            return ()
        return self._stacked(unless_failed(weight_S, opt_S, state.opt_state))

    def _stacked(self, tree_S: Any) -> Any:
        """`tree_S`, sharded over the mesh along its leading axis."""
        if self.placement.mesh is None:
            return tree_S
        sharding = NamedSharding(self.placement.mesh, PartitionSpec(AXIS))
        return jax.lax.with_sharding_constraint(tree_S, sharding)

    def _placed(self, state: State) -> State:
        """Sets the shardings that the exchange and the placement leave to the compiler."""
        if self.placement.mesh is None:
            return state
        constrain = jax.lax.with_sharding_constraint
        replicate = lambda tree: constrain(tree, self.placement.replicated_sharding)
        outer_state = state.outer_state
        if self.outer is not None:  # sharded like the parameters
            shardings = jax.tree.leaves(self.exchange.shardings.params)
            leaves, treedef = jax.tree.flatten(outer_state)
            numbers = parameter_numbers(outer_state, state.store.params)
            outer_state = treedef.unflatten(
                constrain(leaf, shardings[number]) if number >= 0 else replicate(leaf)
                for leaf, number in zip(leaves, numbers)
            )
        return state._replace(
            outer_state=outer_state,
            indices=replicate(state.indices),
            step=replicate(state.step),
            round=replicate(state.round),
            position=replicate(state.position),
            copies_S=self._stacked(state.copies_S),
        )

    def merged(self, state: State) -> Store:
        """The store, with the mean of the workers' copies in place of each copied leaf."""
        mean_S = jax.tree.map(lambda copy_S: copy_S.mean(axis=0), state.copies_S)
        return fill(mean_S, state.store) if self.copied else state.store

    def params(self, state: State) -> Params:
        return self.exchange.params(self.merged(state), state.indices).params

    def end(self, state: State) -> Start:
        full = self.exchange.params(self.merged(state), state.indices)
        opt_state = full.opt_state if self.opt_state == "carry" else None
        return Start(full.params, opt_state, state.step, state.round)

    def first_worker(self, state: State) -> Worker:
        pulled_S = self.pull(state)
        stacked = (pulled_S.params, self._opt_states(state, pulled_S), dict(state.indices))
        params, opt_state, indices = jax.tree.map(lambda leaf_S: leaf_S[0], stacked)
        return Worker(params, opt_state, indices, jnp.int32(0))

    def local_steps(
        self, state: State, view: View, key: Key, *, steps: int
    ) -> tuple[Params, Any, Array]:
        shared = (local_part(view), key, state.position)
        worker = self.first_worker(state)
        params, opt_state, measured_J = self._steps_of_one(range(steps), shared, worker)
        return params, opt_state, measured_J["loss"]

    def output_shapes(self, batch: Batch) -> Mapping[str, Any]:
        return output_shapes(self.decomposition, self.task, batch)

    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        if subnets:
            return self.predictors.of_subnets(state, self.pull(state).params, calibration)
        state = state._replace(store=self.merged(state))
        return self.predictors.of_full_model(state, calibration)

    @functools.cached_property
    def predictors(self) -> SubnetPredictors:
        return SubnetPredictors(self.decomposition, self.task, self.placement, self.exchange)
