"""Evaluation of a state on a whole split, as one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from ist_jax.core.types import Apply, Array, Batch, Metrics, Variables
from ist_jax.data.base import Chunk, Dataset
from ist_jax.methods.base import Algorithm, State
from ist_jax.tasks.base import Task


def _batches(num_examples: int, batch_size: int) -> tuple[Array, Array]:
    """Indices [n, B] that cover every example once, the tail filled by wrapping round with weight 0."""
    batch_size = min(batch_size, num_examples)
    position = jnp.arange(-(-num_examples // batch_size) * batch_size)
    weight = (position < num_examples).astype(jnp.float32)
    return (position % num_examples).reshape(-1, batch_size), weight.reshape(-1, batch_size)


def means(sums: Metrics) -> Metrics:
    """'loss' and 'accuracy' from the sums that a task's metrics are; of subnetworks too, where they were evaluated."""
    mean = {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}
    return mean | (
        {"subnet_accuracy_S": means(sums["subnets"])["accuracy"]} if "subnets" in sums else {}
    )


def whole_batch(task: Task, arrays: Any) -> Batch:
    """All examples of `arrays` as one batch, such as the training examples on which statistics of norms are measured."""
    return task.batch(arrays, jnp.arange(task.num_examples(arrays)), None)


def add_up(sums: Callable[[Batch, Array], Any], task: Task, chunk: Chunk, batch_size: int) -> Any:
    """The sum over a chunk of a split of what `sums` gives for a batch and the weights of its examples."""
    arrays = chunk.arrays
    index_KxB, weight_KxB = _batches(task.num_examples(arrays), batch_size)
    if chunk.count is not None:
        weight_KxB *= jnp.arange(weight_KxB.size).reshape(weight_KxB.shape) < chunk.count
    one_batch = lambda index_weight: sums(
        task.batch(arrays, index_weight[0], None), index_weight[1]
    )
    return jax.tree.map(
        lambda sum_K: sum_K.sum(axis=0), jax.lax.map(one_batch, (index_KxB, weight_KxB))
    )


def evaluate_model(
    apply: Apply, task: Task, variables: Variables, dataset: Dataset, part: str, batch_size: int
) -> dict[str, float]:
    """Loss and accuracy of one model on one split, on one device.

    Args:
      apply: of a Flax module.
      task: batch, logits and metrics.
      variables: parameters, and measured statistics if it has any.
      dataset: whose split is evaluated.
      part: 'train', 'validation' or 'test'.
      batch_size: examples per batch.
    """

    @jax.jit
    def sums(variables: Variables, chunk: Chunk) -> Metrics:
        one = lambda batch, weight_B: task.metrics(
            task.logits(apply, variables, batch), batch, weight_B
        )
        return add_up(one, task, chunk, batch_size)

    chunks = dataset.chunks((part,), SingleDeviceSharding(jax.devices()[0]), batch_size)
    total = functools.reduce(
        plus, (jax.device_get(sums(variables, chunk[part])) for chunk in chunks)
    )
    return {name: float(value) for name, value in means(total).items()}


def plus(one: Metrics, other: Metrics) -> Metrics:
    """Sums of two chunks as those of both."""
    return jax.tree.map(lambda a, b: a + b, one, other)


def evaluate(
    algorithm: Algorithm,
    task: Task,
    state: State,
    splits: Mapping[str, Any],
    sample_arrays: Any,
    *,
    batch_size: int,
    subnets: bool,
) -> Mapping[str, Metrics]:
    """Loss and accuracy on every split, whole. To be jitted.

    Args:
      algorithm: whose whole model is evaluated.
      task: batch and metrics.
      state: of the algorithm.
      splits: name -> arrays.
      sample_arrays: the training examples on which statistics of norms are measured; None: every test batch is
        normalised by itself, as in the authors' code, and the result depends on `batch_size`.
      batch_size: examples per batch.
      subnets: whether to evaluate every subnetwork as a classifier of its own as well.

    Returns:
      split -> {'loss', 'accuracy'} and, with `subnets`, 'subnet_accuracy_S'.
    """
    chunks = {name: Chunk(arrays) for name, arrays in splits.items()}
    found = evaluate_chunks(
        algorithm, task, state, chunks, sample_arrays, batch_size=batch_size, subnets=subnets
    )
    return {name: means(sums) for name, sums in found.items()}


def evaluate_chunks(
    algorithm: Algorithm,
    task: Task,
    state: State,
    chunks: Mapping[str, Chunk],
    sample_arrays: Any,
    *,
    batch_size: int,
    subnets: bool,
) -> Mapping[str, Metrics]:
    """The sums over chunks of splits from which `means` makes loss and accuracy. To be jitted; arguments as of `evaluate`."""
    sample = None if sample_arrays is None else whole_batch(task, sample_arrays)
    variables = algorithm.variables(state, sample)
    subnet_variables = algorithm.subnet_variables(state, sample) if subnets else None

    def sums(batch: Batch, weight_B: Array) -> Metrics:
        one = lambda logits_BxC: task.metrics(logits_BxC, batch, weight_B)
        whole = one(algorithm.predict(variables, batch))
        return whole | (
            {"subnets": jax.vmap(one)(algorithm.subnet_predict(subnet_variables, batch))}
            if subnets
            else {}
        )

    return {name: add_up(sums, task, chunk, batch_size) for name, chunk in chunks.items()}
