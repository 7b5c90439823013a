"""Data parallel training: each step averages the gradients of S workers.

The baseline of all three papers. As in DDP without synchronised BatchNorm, every worker normalises
with the statistics of the B examples it sees. A round is `steps` such steps in one program. On one
device, a single worker with a batch of S x B examples is faster.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.decomposition import Decomposition, replicated
from ist_jax.core.keys import named_key
from ist_jax.core.model import Calibrated, Stats
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.sample_order import View, draw, local_part
from ist_jax.core.subnet import label_axes
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array, Batch, Indices, Key, Metrics, Params
from ist_jax.methods.base import Method, MethodInfo
from ist_jax.methods.costs import Turn, costs_without_exchange, exchange_costs
from ist_jax.methods.exchanged import Exchanged
from ist_jax.methods.local_step import Measured, by_name, loss_and_gradient, optimizer_step
from ist_jax.methods.optimizer_facts import StateFacts, inspect
from ist_jax.methods.optimizer_state import at_step, check_first_step, check_noise, ticking
from ist_jax.methods.output_shapes import output_shapes
from ist_jax.methods.predictor import Predictor, measure_stats
from ist_jax.methods.state import Start, State, Worker, first_counters

# what workers share in one step: data, parameters, the step's key, position in the data order
Shared = tuple[View, Params, Key, Array]


def _mean(total: Params, weight: Array | None) -> tuple[Params, Array | None]:
    """(mean gradient, weight) from the sums over workers of what `_share` returns."""
    if weight is None:
        return total, None
    divisor = jnp.where(weight > 0, weight, 1)
    return jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), total), weight


@dataclasses.dataclass(frozen=True, eq=False)
class DataParallel(Method):
    """Every step of a round averages the workers' gradients; all workers hold the same model.

    Attributes:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the optimizer.
      placement: where workers compute their gradients.
      facts: what the optimizer's state holds.
    """

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    placement: Placement
    facts: StateFacts

    def plan(self, state: State, key: Key) -> Indices:
        del key
        return state.indices

    def _round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int, turn: int = 0
    ) -> tuple[State, Metrics]:
        del turn
        local_key = named_key(key, "local")
        total = weight_S.sum()
        share_S = weight_S.astype(float) / jnp.where(total > 0, total, 1)
        worker_S = (jnp.arange(self.info.num_workers), share_S)

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Measured]:
            params, opt_state = carry
            position = state.position + j * self.info.batch_size
            shared = (view, params, jax.random.fold_in(local_key, j), position)
            measured_S, sums = self.placement.summed(self._share)(shared, worker_S)
            return self._step(*_mean(*sums), params, opt_state), measured_S

        first = (state.store, state.opt_state)
        (params, opt_state), measured_JxS = jax.lax.scan(step, first, jnp.arange(steps))
        state = state._replace(
            store=params,
            opt_state=opt_state,
            step=state.step + steps,
            round=state.round + 1,
            position=state.position + steps * self.info.batch_size,
        )
        return self._placed(state), by_name(jax.tree.map(jnp.transpose, measured_JxS))

    def check_first_step(self, step: int) -> None:
        check_first_step(self.facts, step)

    def _step(
        self, gradient: Params, weight: Array | None, params: Params, opt_state: Any
    ) -> tuple[Params, Any]:
        ticks = ticking(self.facts, "local")
        return optimizer_step(self.tx, gradient, params, opt_state, weight, ticks)

    def _share(
        self, shared: Shared, worker: tuple[Array, Array]
    ) -> tuple[Measured, tuple[Params, Array | None]]:
        """One worker's loss, and its terms of two sums: of gradients, and of weights.

        The first sum, divided by the second, is the mean gradient. If the task does not count
        examples, weights are None, and the first sum is the mean.
        """
        number, share = worker
        measured, gradient = self._gradient(shared, number)
        if "weight" in measured:  # 1 for a full batch, whose share stays as it is
            share = share * (measured["weight"] / self.info.batch_size)
        # `where` as well as the product: a failed worker's gradient may be NaN
        part = lambda leaf: jnp.where(share > 0, share.astype(leaf.dtype) * leaf, 0)
        return measured, (jax.tree.map(part, gradient), share if "weight" in measured else None)

    def _gradient(self, shared: Shared, number: Array) -> tuple[Measured, Params]:
        """One worker's loss and gradient on its own batch."""
        view, params, key, position = shared
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, number))
        index_B = draw(view, number, position, self.info.batch_size)
        batch = self.task.batch(view.arrays, index_B, batch_key)
        return loss_and_gradient(self.task, self.decomposition.full, params, batch, loss_key)

    def init(self, key: Key, start: Start | None = None) -> State:
        if start is None:
            start = Start(self.decomposition.init(named_key(key, "init")))
        opt_state = start.opt_state
        if opt_state is None:
            opt_state = at_step(self.tx.init(start.params), start.step, self.facts)
        return self._placed(State(start.params, opt_state, (), {}, *first_counters(start)))

    def _placed(self, state: State) -> State:
        if self.placement.mesh is None:
            return state
        return jax.lax.with_sharding_constraint(state, self.placement.replicated_sharding)

    def params(self, state: State) -> Params:
        return state.store

    def end(self, state: State) -> Start:
        return Start(state.store, state.opt_state, state.step, state.round)

    def first_worker(self, state: State) -> Worker:
        return Worker(state.store, state.opt_state, {}, jnp.int32(0))

    def local_steps(
        self, state: State, view: View, key: Key, *, steps: int
    ) -> tuple[Params, Any, Array]:
        worker, view = self.first_worker(state), local_part(view)

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Measured]:
            params, opt_state = carry
            position = state.position + j * self.info.batch_size
            shared = (view, params, jax.random.fold_in(key, j), position)
            measured, gradient = self._gradient(shared, worker.number)
            return self._step(gradient, measured.get("weight"), params, opt_state), measured

        first = (worker.params, worker.opt_state)
        (params, opt_state), measured_J = jax.lax.scan(step, first, jnp.arange(steps))
        return params, opt_state, measured_J["loss"]

    def output_shapes(self, batch: Batch) -> Mapping[str, Any]:
        return output_shapes(self.decomposition, self.task, batch)

    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        stats = measure_stats(self.decomposition.full, self.task, state.store, calibration)
        function = self._predict_by_workers if subnets else self._predict
        return Predictor(state.store, stats, {}, function)

    def _predict(self, params: Params, stats: Stats | None, indices: Indices, batch: Batch) -> Any:
        del indices
        return self.task.predict(Calibrated(self.decomposition.full, stats), params, batch)

    def _predict_by_workers(
        self, params: Params, stats: Stats | None, indices: Indices, batch: Batch
    ) -> Any:
        outputs = self._predict(params, stats, indices, batch)  # every worker has the same model
        stack = lambda leaf: jnp.broadcast_to(leaf, (self.info.num_workers, *leaf.shape))
        return jax.tree.map(stack, outputs)


def data_parallel(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    placement: Placement | None = None,
) -> Method:
    """Data parallel training of the full model. The decomposition's groups are not used.

    Args:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the optimizer. Its state is kept for the whole run.
      num_workers: S; 1 is plain training.
      batch_size: examples per step of one worker.
      placement: where workers compute their gradients; default: vmapped on one device.

    Raises:
      ValueError: `num_workers` is below 1, or the optimizer needs more than gradients.
    """
    placement = placement or vmapped()
    decomposition = replicated(decomposition, num_workers)
    partition = decomposition.partition
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, {})
    costs = costs_without_exchange(labels, shapes, partition)
    if num_workers > 1:
        exact = Exchanged("exact", "exact", "exact")
        costs = exchange_costs(Exchanged(labels), Exchanged(shapes), partition, exact)
    facts = inspect(tx, shapes)
    check_noise(facts)
    info = MethodInfo(
        num_workers=num_workers,
        batch_size=batch_size,
        turns=(Turn(frozenset(leaf_names(shapes)), costs._replace(steps_per_sync=1)),),
        sharding=placement.replicated_sharding,
        partition=partition,
    )
    return DataParallel(info, decomposition, task, tx, placement, facts)
