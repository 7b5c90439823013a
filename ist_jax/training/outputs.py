"""Checks before training that the shapes of a model's outputs fit the data."""

import jax

from ist_jax.core.task import Task
from ist_jax.data.base import Dataset
from ist_jax.data.raw import DataError
from ist_jax.methods import Method
from ist_jax.training.evaluation import whole_batch


def check_outputs(method: Method, task: Task, dataset: Dataset) -> None:
    """Checks that the models of `method` have the outputs that `task` needs for these data.

    Only shapes are computed. A task without a `check` accepts all outputs.

    Raises:
      DataError: a model's outputs do not fit the data, or it fails on their inputs.
    """
    if task.check is None:
        return
    arrays = {**dataset.calibration(1), **dataset.common.get("train", {})}
    batch = jax.eval_shape(lambda arrays: whole_batch(task, arrays), arrays)
    try:
        shapes = method.output_shapes(batch)
    except ValueError as error:
        raise DataError(str(error)) from error
    for name, outputs in shapes.items():
        try:
            task.check(outputs, dataset)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
