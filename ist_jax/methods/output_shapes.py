"""The shapes of a method's outputs and loss, which are known before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.errors import ModelError, first_line
from ist_jax.core.subnet import extract, label_axes
from ist_jax.core.task import Task
from ist_jax.core.types import Batch
from ist_jax.methods.local_batch import local_batch


def output_shapes(decomposition: Decomposition, task: Task, batch: Batch) -> Mapping[str, Any]:
    """The output shapes of the full model, and of a subnetwork's model if that is another one.

    Args:
      decomposition: its `full` and `subnet` models.
      task: its `predict` is traced.
      batch: a batch of the task, arrays or ShapeDtypeStructs.

    Returns:
      name of the model, for messages -> a tree of ShapeDtypeStructs.

    Raises:
      ValueError: a model fails on the batch, or its loss is not one number.
    """
    full = jax.eval_shape(decomposition.init, jax.random.key(0))
    outputs = {"the model": _shapes("the model", task, decomposition.full, full, batch)}
    if decomposition.subnet is not decomposition.full:
        labels = label_axes(full, decomposition.rules, decomposition.partition.sizes)
        indices = {group: index[0] for group, index in decomposition.partition.first().items()}
        cut = lambda params, batch: (
            extract(params, labels, indices),
            local_batch(decomposition, batch, indices),
        )
        name, given = "the model of a subnetwork", jax.eval_shape(cut, full, batch)
        outputs[name] = _shapes(name, task, decomposition.subnet, *given)
    return outputs


def _shapes(name: str, task: Task, model: Any, params: Any, batch: Batch) -> Any:
    try:
        outputs = jax.eval_shape(lambda *given: task.predict(model, *given), params, batch)
    except ModelError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # whatever the model raises
        raise ValueError(
            f"{name} fails on a batch of the data ({type(error).__name__}: {first_line(error)}): "
            "make it for inputs like the data's `example`"
        ) from error
    _check_loss(name, task, model, params, batch)
    return outputs


def _check_loss(name: str, task: Task, model: Any, params: Any, batch: Batch) -> None:
    """Raises ValueError unless the loss of a batch, in training, is one number."""
    loss = lambda params, batch, key: task.loss(model, params, batch, key)
    try:
        value, _ = jax.eval_shape(loss, params, batch, jax.random.key(0))
    except ModelError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:
        raise ValueError(
            f"the loss of {name} fails on a batch of the data "
            f"({type(error).__name__}: {first_line(error)}): Task.loss must fit outputs and "
            "labels, and return (loss, aux)"
        ) from error
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"the loss of {name} must be one number, the mean over the batch, but is "
            f"{value.dtype.name}{list(value.shape)}: take its mean"
        )
