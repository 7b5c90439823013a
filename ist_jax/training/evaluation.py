"""Evaluation of a state on full splits, as one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from ist_jax.core.task import MetricInfo, Sums, Task
from ist_jax.core.types import Array, Batch
from ist_jax.data.base import Chunk, Dataset
from ist_jax.methods import Method, State
from ist_jax.methods.predictor import Predictor
from ist_jax.training.divergence import SUBNETS, check_metrics


def _batches(num_examples: int, batch_size: int) -> tuple[Array, Array]:
    """(int32[K, B], float32[K, B]): indices and weights of batches that cover every example once.

    Examples from the start, of weight 0, fill up the last batch.
    """
    batch_size = min(batch_size, num_examples)
    position = jnp.arange(-(-num_examples // batch_size) * batch_size)
    weight = (position < num_examples).astype(jnp.float32)
    return (position % num_examples).reshape(-1, batch_size), weight.reshape(-1, batch_size)


def values_of(task: Task, split: str, sums: Sums) -> Mapping[str, Array]:
    """The value of every metric: a scalar, or S values if `split` is one of subnetworks."""
    summary = jax.vmap(task.summary) if split.endswith(SUBNETS) else task.summary
    return summary(sums)


def plus(one: Sums, other: Sums) -> Sums:
    """The sums over both of two chunks."""
    return jax.tree.map(lambda a, b: a + b, one, other)


def whole_batch(task: Task, arrays: Any) -> Batch:
    """All examples of `arrays` as one batch, such as the calibration batch."""
    return task.batch(arrays, jnp.arange(task.num_examples(arrays)), None)


def add_up(sums: Callable[[Batch, Array], Any], task: Task, chunk: Chunk, batch_size: int) -> Any:
    """The total of `sums` over all batches of a chunk.

    Args:
      sums: (batch, float32[B] weights of its examples) -> tree of sums.
      task: makes the batches.
      chunk: of a split.
      batch_size: examples per batch.
    """
    index_KxB, weight_KxB = _batches(task.num_examples(chunk.arrays), batch_size)
    if chunk.num_examples is not None:
        weight_KxB *= jnp.arange(weight_KxB.size).reshape(weight_KxB.shape) < chunk.num_examples

    def sums_of_batch(batch: tuple[Array, Array]) -> Any:
        index_B, weight_B = batch
        return sums(task.batch(chunk.arrays, index_B, None), weight_B)

    sums_K = jax.lax.map(sums_of_batch, (index_KxB, weight_KxB))
    return jax.tree.map(lambda leaf_K: leaf_K.sum(axis=0), sums_K)


def checked_sums(task: Task, sums: Sums) -> Sums:
    """`sums`. Raises ValueError unless the task has the metric that selects an evaluation."""
    (metric, best), names = task.selects, sorted(task.summary(sums))
    if metric not in names:
        raise ValueError(
            f"the task selects by {metric!r}, and its metrics are {names}: "
            "name one of them in Task.selects"
        )
    if task.metric_info.get(metric, MetricInfo(best)).best != best:
        raise ValueError(
            f"the task selects by the {best} of {metric!r}, but Task.metric_info names the other "
            "direction: make them agree"
        )
    return sums


def evaluate_model(
    predictor: Predictor, task: Task, dataset: Dataset, part: str, batch_size: int
) -> dict[str, float]:
    """The task's metrics of one model on one split, on one device.

    Args:
      predictor: of the model (`methods.predictor.model_predictor`).
      task: batch and metrics.
      dataset: whose split is evaluated.
      part: 'train', 'validation' or 'test'.
      batch_size: examples per batch.

    Raises:
      NonFiniteLossError: a metric is nan or infinite.
    """

    @jax.jit
    def sums(predictor: Predictor, chunk: Chunk) -> Sums:
        def sums_of_batch(batch: Batch, weight_B: Array) -> Sums:
            return task.metrics(predictor(batch), batch, weight_B)

        return add_up(sums_of_batch, task, chunk, batch_size)

    chunks = dataset.chunks((part,), SingleDeviceSharding(jax.devices()[0]), batch_size)
    sums_of_chunks = (jax.device_get(sums(predictor, chunk[part])) for chunk in chunks)
    total = functools.reduce(plus, sums_of_chunks)
    metrics = {name: float(value) for name, value in task.summary(total).items()}
    remedy = "the outputs are no longer finite: use an earlier checkpoint, or train again"
    check_metrics({part: metrics}, f"in the evaluation on {dataset.name}", remedy)
    return metrics


def evaluate(
    method: Method,
    task: Task,
    state: State,
    splits: Mapping[str, Any],
    calibration: Any,
    *,
    batch_size: int,
    subnets: bool,
) -> dict[str, dict[str, Array]]:
    """The task's metrics on every split; to be called inside `jax.jit`.

    Args:
      method: its full model is evaluated.
      task: batch and metrics.
      state: of the method.
      splits: name -> arrays.
      calibration: arrays of the training examples on which normalisation statistics are measured.
        None: every batch is normalised by its own statistics, as in the authors' code, and the
        result depends on `batch_size`.
      batch_size: examples per batch.
      subnets: whether to evaluate every subnetwork as a model, too.

    Returns:
      split -> {name: value}; with `subnets` also split + '_subnets' -> {name: the S values}.
    """
    chunks = {name: Chunk(arrays) for name, arrays in splits.items()}
    sums = evaluate_chunks(
        method, task, state, chunks, calibration, batch_size=batch_size, subnets=subnets
    )
    return {split: dict(values_of(task, split, sum)) for split, sum in sums.items()}


def evaluate_chunks(
    method: Method,
    task: Task,
    state: State,
    chunks: Mapping[str, Chunk],
    calibration: Any,
    *,
    batch_size: int,
    subnets: bool,
) -> dict[str, Sums]:
    """The sums from which `values_of` computes metrics; to be called inside `jax.jit`.

    Arguments are those of `evaluate`, with chunks in place of splits.

    Raises:
      ValueError: `task.selects` names a metric that the task does not have, or a direction that
        `task.metric_info` contradicts.
    """
    batch = None if calibration is None else whole_batch(task, calibration)
    predictor = method.predictor(state, batch)
    of_subnets = method.predictor(state, batch, subnets=True) if subnets else None

    def sums(batch: Batch, weight_B: Array) -> dict[str, Sums]:
        one = lambda outputs: task.metrics(outputs, batch, weight_B)
        full = {"": checked_sums(task, one(predictor(batch)))}
        return full if of_subnets is None else full | {SUBNETS: jax.vmap(one)(of_subnets(batch))}

    return {
        split + suffix: sums_of_split
        for split, chunk in chunks.items()
        for suffix, sums_of_split in add_up(sums, task, chunk, batch_size).items()
    }
