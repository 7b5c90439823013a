"""Data parallel training: the mean of S gradients, one synchronisation per step.

The baseline of all three papers, as DDP without synchronised BatchNorm: every worker normalises with the
statistics of its own B examples. A round is `steps` such steps in one program. Its best form on one
device is one worker with a batch of S x B.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.keys import named_key
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.sample_order import View, draw, of_one_device
from ist_jax.core.subnet import label_axes
from ist_jax.core.types import Array, Batch, Key, Metrics, Params, Variables
from ist_jax.decompositions.base import Decomposition, replicated
from ist_jax.methods.base import Algorithm, Start, State, Worker, exchange_costs
from ist_jax.methods.optimizer_state import at_step
from ist_jax.methods.predictor import measured
from ist_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class _Training:
    """The functions of `data_parallel`, over its arguments."""

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    batch_size: int
    placement: Placement

    def init(self, key: Key, start: Start | None = None) -> State:
        if start is None:
            start = Start(
                self.decomposition.init(named_key(key, "init")), None, jnp.zeros((), jnp.int32)
            )
        opt_state = (
            at_step(self.tx.init(start.params), start.step)
            if start.opt_state is None
            else start.opt_state
        )
        return self._placed(
            State(start.params, opt_state, (), {}, start.step + 0, jnp.zeros((), jnp.int32))
        )

    def _placed(self, state: State) -> State:
        return (
            state
            if self.placement.mesh is None
            else jax.lax.with_sharding_constraint(state, self.placement.replicated_sharding)
        )

    def round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int
    ) -> tuple[State, Metrics]:
        own_S = (jnp.arange(weight_S.shape[0]), weight_S / jnp.maximum(weight_S.sum(), 1))
        local_key = named_key(key, "local")

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Array]:
            params, opt_state = carry
            shared = (
                view,
                params,
                jax.random.fold_in(local_key, j),
                state.position + j * self.batch_size,
            )
            loss_S, gradient = self.placement.summed(self._share)(shared, own_S)
            updates, opt_state = self.tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss_S

        (params, opt_state), loss_JxS = jax.lax.scan(
            step, (state.store, state.opt_state), jnp.arange(steps)
        )
        position = state.position + steps * self.batch_size
        state = State(params, opt_state, (), {}, state.step + steps, position)
        return self._placed(state), {"loss_SxJ": loss_JxS.T}

    def _share(
        self, shared: tuple[View, Params, Key, Array], own: tuple[Array, Array]
    ) -> tuple[Array, Params]:
        """One worker's loss, and its share of the mean gradient."""
        worker, share = own
        loss, gradient = self._gradient(shared, worker)
        # where, not a product alone: a lost worker may hold nan
        return loss, jax.tree.map(
            lambda leaf: jnp.where(share > 0, share.astype(leaf.dtype) * leaf, 0), gradient
        )

    def _gradient(
        self, shared: tuple[View, Params, Key, Array], worker: Array
    ) -> tuple[Array, Params]:
        """One worker's loss and gradient on its own batch."""
        view, params, key, position = shared
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, worker))
        batch = self.task.batch(
            view.arrays, draw(view, worker, position, self.batch_size), batch_key
        )
        loss = lambda params: self.task.loss(
            self.decomposition.full.apply, {"params": params}, batch, loss_key
        )
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, gradient

    def one_worker(self, state: State) -> Worker:
        return Worker(state.store, state.opt_state, {}, jnp.int32(0), state.position)

    def one_step(self, worker: Worker, view: View, key: Key, *, steps: int = 1) -> Any:
        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Array]:
            params, opt_state = carry
            shared = (
                of_one_device(view),
                params,
                jax.random.fold_in(key, j),
                worker.position + j * self.batch_size,
            )
            loss, gradient = self._gradient(shared, worker.number)
            updates, opt_state = self.tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, opt_state), loss_J = jax.lax.scan(
            step, (worker.params, worker.opt_state), jnp.arange(steps)
        )
        return params, opt_state, loss_J

    def variables(self, state: State, sample: Batch | None) -> Variables:
        return measured(self.decomposition.full, self.task, state.store, sample)

    def predict(self, variables: Variables, batch: Batch) -> Array:
        return self.task.logits(self.decomposition.full.apply, variables, batch)

    def subnet_variables(self, state: State, sample: Batch | None) -> Variables:
        return self.variables(state, sample)

    def subnet_predict(self, variables: Variables, batch: Batch) -> Array:
        logits_BxC = self.predict(variables, batch)  # every worker holds the same model
        return jnp.broadcast_to(logits_BxC, (self.decomposition.num_subnets, *logits_BxC.shape))


def data_parallel(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    placement: Placement | None = None,
) -> Algorithm:
    """Data parallel training of the whole model; the decomposition's groups are not used.

    Args:
      decomposition: its `full` model is trained.
      task: loss, batch and metrics.
      tx: the optimizer, whose state is kept for the whole run.
      num_workers: S; 1 is plain training.
      batch_size: examples of one step of one worker.
      placement: where workers compute their gradients; default vmapped on one device.
    """
    whole = replicated(decomposition, num_workers)
    shapes = jax.eval_shape(whole.init, jax.random.key(0))
    labels = label_axes(shapes, whole.rules, {})
    costs = exchange_costs(
        labels, shapes, ((labels, ()), (shapes, ())), ((), ()), whole.partition, num_workers > 1
    )
    training = _Training(whole, task, tx, batch_size, placement or vmapped())
    return Algorithm(
        init=training.init,
        round=jax.jit(training.round, static_argnames="steps", donate_argnums=0),
        variables=training.variables,
        predict=training.predict,
        subnet_variables=training.subnet_variables,
        subnet_predict=training.subnet_predict,
        one_worker=training.one_worker,
        one_step=training.one_step,
        params=lambda state: state.store,
        end=lambda state: Start(state.store, state.opt_state, state.step),
        num_workers=num_workers,
        batch_size=batch_size,
        costs=costs._replace(steps_per_sync=1),
        sharding=training.placement.replicated_sharding,
        partition=whole.partition,
    )
