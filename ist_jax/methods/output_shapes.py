"""The shapes of a method's outputs, which are known before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.errors import first_line
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
      ValueError: a model fails on the batch.
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
        return jax.eval_shape(lambda *given: task.predict(model, *given), params, batch)
    except Exception as error:  # whatever the model raises
        raise ValueError(
            f"{name} fails on a batch of the data ({type(error).__name__}: {first_line(error)}): "
            "make it for inputs like the data's `example`"
        ) from error
