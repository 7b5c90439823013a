"""Checks before training: a model's outputs fit the data, and its sums fit its subnetworks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ist_jax.core.task import Task
from ist_jax.core.types import Batch
from ist_jax.data.base import Dataset
from ist_jax.data.raw import DataError
from ist_jax.methods import Method
from ist_jax.training.evaluation import whole_batch

WARNING_EXAMPLES = 32


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


def method_warnings(method: Method, task: Task, dataset: Dataset) -> Sequence[str]:
    """What `method` finds odd about itself on a few training examples."""

    def batch() -> Batch:
        arrays = {**dataset.calibration(WARNING_EXAMPLES), **dataset.common.get("train", {})}
        return whole_batch(task, jax.tree.map(jnp.asarray, arrays))

    return method.warnings(batch)
