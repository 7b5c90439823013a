"""Checks before training that data, model and task fit together. Only shapes are computed."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.errors import first_line
from ist_jax.core.task import Task
from ist_jax.core.types import Batch
from ist_jax.data.base import Dataset
from ist_jax.data.raw import DataError
from ist_jax.methods import Method
from ist_jax.training.evaluation import checked_sums, whole_batch

SPLITS = ("train", "validation", "test")


def check_run(method: Method, task: Task, dataset: Dataset) -> None:
    """Checks that `task` can train and evaluate the models of `method` on these data.

    Raises:
      DataError: the arrays of a split differ in length, a batch is larger than the training set, a
        model fails on the data, its loss is not a scalar, or its outputs or metrics do not fit.
    """
    check_lengths(dataset)
    if method.batch_size > dataset.num_train:
        raise DataError(
            f"batch_size={method.batch_size} is above the number of training examples, "
            f"{dataset.num_train}: use a smaller batch"
        )
    check_outputs(method, task, dataset)


def _length(array: Any) -> int:
    return array.shape[0] if hasattr(array, "shape") else len(array)


def check_lengths(dataset: Dataset) -> None:
    """Raises DataError if the arrays of a split have different numbers of examples, or none."""
    for part in SPLITS:
        lengths = {name: _length(array) for name, array in getattr(dataset, part).items()}
        if len(set(lengths.values())) > 1 or not all(lengths.values()):
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataError(
                f"the arrays of a split must have equally many rows, at least one, but in {part!r} "
                f"{shown}: give each a row for every example"
            )


def check_outputs(method: Method, task: Task, dataset: Dataset) -> None:
    """Checks that the models of `method` have outputs that `task` can measure on these data.

    Raises:
      DataError: a model fails on the data, or its loss, outputs or metrics do not fit.
    """
    arrays = {**dataset.calibration(2), **dataset.common.get("train", {})}
    batch = jax.eval_shape(lambda arrays: whole_batch(task, arrays), arrays)
    try:
        shapes = method.output_shapes(batch)
    except ValueError as error:
        raise DataError(str(error)) from error
    for name, outputs in shapes.items():
        try:
            if task.check is not None:
                task.check(outputs, dataset)
            _check_metrics(task, outputs, batch, task.num_examples(arrays))
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error


def _check_metrics(task: Task, outputs: Any, batch: Batch, num_examples: int) -> None:
    """Raises ValueError if `task.metrics` fails on outputs, or lacks the metric that selects."""
    weight_B = jax.ShapeDtypeStruct((num_examples,), jnp.float32)
    try:
        sums = jax.eval_shape(task.metrics, outputs, batch, weight_B)
    except Exception as error:  # whatever a user's task raises
        raise ValueError(
            f"the metrics of the task fail on outputs of shapes {_shapes(outputs)} and a batch of "
            f"{_shapes(batch)} ({type(error).__name__}: {first_line(error)}): make them fit"
        ) from error
    jax.eval_shape(functools.partial(checked_sums, task), sums)


def _shapes(tree: Any) -> str:
    """The shapes of a tree, as text."""
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{name}: {_shapes(leaf)}" for name, leaf in tree.items()) + "}"
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(tree)]
    return str(shapes[0] if len(shapes) == 1 else shapes)
