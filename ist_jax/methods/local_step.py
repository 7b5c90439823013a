"""One local step: loss and gradient of a batch, a step of the optimizer, and which steps count."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.model import Model, Training
from ist_jax.core.subnet import per_subnet
from ist_jax.core.task import Task, weight_of
from ist_jax.core.types import Array, Batch, Key, Params

# of a batch: its "loss" and, if the task counts examples, "weight", their number
Measured = Mapping[str, Array]


def loss_and_gradient(
    task: Task, model: Model, params: Params, batch: Batch, key: Key
) -> tuple[Measured, Params]:
    """The loss of a batch, its weight if the task gives one, and the gradient.

    The loss includes the model's auxiliary losses.
    """

    def loss(params: Params) -> tuple[Array, Any]:
        training = Training(model)
        value, aux = task.loss(training, params, batch, key)
        return sum(training.losses, value), aux

    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    weight = weight_of(aux)
    return {"loss": value} | ({} if weight is None else {"weight": weight}), gradient


def by_name(measured_SxJ: Measured) -> Mapping[str, Array]:
    """The metrics of a round: 'loss_SxJ' and, if the task weights its batches, 'weight_SxJ'."""
    return {f"{name}_SxJ": value_SxJ for name, value_SxJ in measured_SxJ.items()}


def optimizer_step(
    tx: optax.GradientTransformation,
    gradient: Params,
    params: Params,
    opt_state: Any,
    weight: Array | None,
    ticks: Any,
) -> tuple[Params, Any]:
    """(params, opt_state) after a step of the optimizer.

    Args:
      tx: the optimizer.
      gradient: of the batch.
      params: before the step.
      opt_state: before the step.
      weight: the number of examples in the batch. If it is 0, parameters and state stay as they
        are. None: it is never 0.
      ticks: bools in a tree like `opt_state`: the leaves that change even if `weight` is 0
        (`optimizer_state.ticking`).
    """
    updates, new_state = tx.update(gradient, opt_state, params)
    new_params = optax.apply_updates(params, updates)
    if weight is None:
        return new_params, new_state
    stay = lambda new, old: jnp.where(weight > 0, new, old)
    new_state = jax.tree.map(
        lambda ticks, new, old: new if ticks else stay(new, old), ticks, new_state, opt_state
    )
    return jax.tree.map(stay, new_params, params), new_state


def trained_weight(weight_S: Array, measured_SxJ: Measured) -> Array:
    """The participation of each worker: 0 for a worker whose batches had no example."""
    if "weight" not in measured_SxJ:
        return weight_S
    return jnp.where(measured_SxJ["weight"].sum(axis=1) > 0, weight_S, 0)


def unless_failed(weight_S: Array, new_S: Any, old_S: Any) -> Any:
    """The new values of each worker; the old ones for a failed worker."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(per_subnet(weight_S, new) > 0, new, old)

    return jax.tree.map(choose, new_S, old_S)
