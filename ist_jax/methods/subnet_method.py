"""The round that IST, local SGD, DiLoCo and ensembles share.

It plans the units of every subnetwork, pulls them, trains each subnetwork alone for J steps, pushes
the units back, and applies the outer optimizer to the change.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.keys import named_key
from ist_jax.core.placement import AXIS, Placement
from ist_jax.core.sample_order import View, draw, local_part
from ist_jax.core.subnet import label_axes, per_subnet
from ist_jax.core.task import Task
from ist_jax.core.types import Array, Batch, Key, Metrics, Params
from ist_jax.exchange import Exchange
from ist_jax.methods.base import Method
from ist_jax.methods.exchanged import Exchanged
from ist_jax.methods.local_batch import check_subnet, local_batch
from ist_jax.methods.local_step import Measured, by_name, loss_and_gradient, optimizer_step
from ist_jax.methods.optimizer_facts import StateFacts, parameter_numbers
from ist_jax.methods.optimizer_state import (
    at_step,
    check_first_step,
    check_period,
    check_weighted,
    state_labels,
    ticking,
)
from ist_jax.methods.output_shapes import output_shapes
from ist_jax.methods.predictor import Predictor
from ist_jax.methods.state import Plan, Start, State, Worker, first_counters
from ist_jax.methods.subnet_predictors import SubnetPredictors

OPT_STATES = ("reset", "carry", "local")


class Outer(NamedTuple):
    """An outer optimizer, and the exchange that moves its state with the units."""

    tx: optax.GradientTransformation
    exchange: Exchange


def exchanged_trees(
    decomposition: Decomposition,
    tx: optax.GradientTransformation,
    opt_state: str = "reset",
    outer_tx: optax.GradientTransformation | None = None,
) -> tuple[Exchanged, Exchanged]:
    """(labels, shapes) of everything that is exchanged.

    Raises:
      ValueError: the rules do not fit the model or the subnetwork's model, or an optimizer's state
        cannot move with its units (`state_labels`).
    """
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    check_subnet(decomposition, labels, shapes)
    carried = tx if opt_state == "carry" else None
    shape = lambda each: () if each is None else jax.eval_shape(each.init, shapes)
    label = lambda each, **options: (
        () if each is None else state_labels(each, labels, shapes, **options)
    )
    return (
        Exchanged(labels, label(carried), label(outer_tx, is_outer=True)),
        Exchanged(shapes, shape(carried), shape(outer_tx)),
    )


def _unless_failed(weight_S: Array, new_S: Any, old_S: Any) -> Any:
    """The new values of each worker; the old ones for a failed worker."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(per_subnet(weight_S, new) > 0, new, old)

    return jax.tree.map(choose, new_S, old_S)


def _of_trained(weight_S: Array, measured_SxJ: Measured) -> Array:
    """The participation of each worker: 0 for a worker whose batches had no example."""
    if "weight" not in measured_SxJ:
        return weight_S
    return jnp.where(measured_SxJ["weight"].sum(axis=1) > 0, weight_S, 0)


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
    """

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    placement: Placement
    exchange: Exchange
    opt_state: str
    facts: StateFacts
    outer: Outer | None = None

    def check_local_steps(self, steps: int) -> None:
        check_period(self.facts, self.opt_state, steps)

    def check_first_step(self, step: int) -> None:
        check_first_step(self.facts, step)

    def _round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int
    ) -> tuple[State, Metrics]:
        plan = self._checked(self.plan(state, key))
        state = self._repartition(state, plan, named_key(key, "move"))
        pulled_S = self.exchange.pull(state.store, plan.indices)
        trained_S, opt_S, measured_SxJ = self._train(state, pulled_S, view, key, steps)
        push_key, pushed_S = named_key(key, "push"), _of_trained(weight_S, measured_SxJ)
        store = self.exchange.push(
            state.store, pulled_S, trained_S, plan.indices, pushed_S, push_key
        )
        if plan.synchronised:
            store, state = self._outer_update(state, store)
        state = state._replace(
            store=store,
            opt_state=self._kept_by_workers(state, opt_S, weight_S),
            step=state.step + steps,
            round=state.round + 1,
            position=state.position + steps * self.info.batch_size,
        )
        return self._placed(state), by_name(measured_SxJ)

    def _checked(self, plan: Plan) -> Plan:
        """The plan. Raises ValueError if it synchronises some groups and not others."""
        every_group = frozenset([*self.info.partition.sizes, None])
        if plan.synchronised not in (every_group, frozenset()):
            raise ValueError(
                f"a plan synchronises all groups or none: all are {sorted(map(str, every_group))}, "
                f"the plan has {sorted(map(str, plan.synchronised))}"
            )
        return plan

    def _repartition(self, state: State, plan: Plan, key: Key) -> State:
        """The state with the units of the plan; holder-sharded units move to their next holders."""
        move = (state.indices, plan.indices, key)
        store, outer_state = self.exchange.repartition(state.store, *move), state.outer_state
        if self.outer is not None:
            outer_state = self.outer.exchange.repartition(outer_state, *move)
        return state._replace(store=store, outer_state=outer_state, indices=plan.indices)

    def _train(
        self, state: State, pulled_S: Exchanged, view: View, key: Key, steps: int
    ) -> tuple[Exchanged, Any, Measured]:
        """(trees to push, optimizer states, losses and weights) after the local steps of all."""
        worker_S = Worker(
            pulled_S.params,
            self._opt_states(state, pulled_S),
            dict(state.indices),
            jnp.arange(self.info.num_workers),
        )
        train = self.placement(functools.partial(self._steps_of_one, steps))
        params_S, opt_S, measured_SxJ = train(
            (view, named_key(key, "local"), state.position), worker_S
        )
        return Exchanged(params_S, opt_S if self.opt_state == "carry" else ()), opt_S, measured_SxJ

    def _steps_of_one(
        self, steps: int, shared: tuple[View, Key, Array], worker: Worker
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
        (params, opt_state), measured_J = jax.lax.scan(step, first, jnp.arange(steps))
        return params, opt_state, measured_J

    def _outer_update(self, state: State, store: Exchanged) -> tuple[Exchanged, State]:
        """One step of the outer optimizer (Douillard et al., Algorithm 1)."""
        if self.outer is None:
            return store, state
        old = state.store.params
        pseudo_gradient = jax.tree.map(jnp.subtract, old, store.params)
        updates, outer_state = self.outer.tx.update(pseudo_gradient, state.outer_state, old)
        store = store._replace(params=optax.apply_updates(old, updates))
        return store, state._replace(outer_state=outer_state)

    def init(self, key: Key, start: Start | None = None) -> State:
        if start is None:
            start = Start(self.decomposition.init(named_key(key, "init")))
        indices = self.decomposition.partition.first()
        store = self.exchange.init(Exchanged(start.params, self._carried(start)))
        opt_state = ()
        if self.opt_state == "local":
            params_S = self.exchange.pull(store, indices).params
            opt_state = self._stacked(self._new_opt_states(params_S, start.step))
        outer_state = self.outer.tx.init(store.params) if self.outer else ()
        return self._placed(State(store, opt_state, outer_state, indices, *first_counters(start)))

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
        return self._stacked(_unless_failed(weight_S, opt_S, state.opt_state))

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
        )

    def params(self, state: State) -> Params:
        return self.exchange.params(state.store, state.indices).params

    def end(self, state: State) -> Start:
        full = self.exchange.params(state.store, state.indices)
        opt_state = full.opt_state if self.opt_state == "carry" else None
        return Start(full.params, opt_state, state.step, state.round)

    def first_worker(self, state: State) -> Worker:
        pulled_S = self.exchange.pull(state.store, state.indices)
        stacked = (pulled_S.params, self._opt_states(state, pulled_S), dict(state.indices))
        params, opt_state, indices = jax.tree.map(lambda leaf_S: leaf_S[0], stacked)
        return Worker(params, opt_state, indices, jnp.int32(0))

    def local_steps(
        self, state: State, view: View, key: Key, *, steps: int
    ) -> tuple[Params, Any, Array]:
        shared = (local_part(view), key, state.position)
        params, opt_state, measured_J = self._steps_of_one(steps, shared, self.first_worker(state))
        return params, opt_state, measured_J["loss"]

    def output_shapes(self, batch: Batch) -> Mapping[str, Any]:
        return output_shapes(self.decomposition, self.task, batch)

    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        make = self.predictors.of_subnets if subnets else self.predictors.of_full_model
        return make(state, calibration)

    @functools.cached_property
    def predictors(self) -> SubnetPredictors:
        return SubnetPredictors(self.decomposition, self.task, self.placement, self.exchange)
