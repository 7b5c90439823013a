"""Evaluation of a state on a whole split, as one program."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.algorithms.base import Algorithm, State
from ist_jax.tasks.base import Task
from ist_jax.types import Apply, Array, Batch, Metrics, Variables


def _batches(num_examples: int, batch_size: int) -> tuple[Array, Array]:
    """Indices [n, B] that cover every example once, the tail filled by wrapping round with weight 0."""
    batch_size = min(batch_size, num_examples)
    position = jnp.arange(-(-num_examples // batch_size) * batch_size)
    weight = (position < num_examples).astype(jnp.float32)
    return (position % num_examples).reshape(-1, batch_size), weight.reshape(-1, batch_size)


def _means(sums: Metrics) -> Metrics:
    return {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}


def whole_batch(task: Task, arrays: Any) -> Batch:
    """All examples of `arrays` as one batch, such as the training examples on which statistics of norms are measured."""
    return task.batch(arrays, jnp.arange(task.num_examples(arrays)), None)


def add_up(sums: Callable[[Batch, Array], Any], task: Task, arrays: Any, batch_size: int) -> Any:
    """The sum over a whole split of what `sums` gives for a batch and the weights of its examples."""
    index_KxB, weight_KxB = _batches(task.num_examples(arrays), batch_size)
    one_batch = lambda index_weight: sums(task.batch(arrays, index_weight[0], None), index_weight[1])
    return jax.tree.map(lambda sum_K: sum_K.sum(axis=0), jax.lax.map(one_batch, (index_KxB, weight_KxB)))


def evaluate_model(apply: Apply, task: Task, variables: Variables, arrays: Any, batch_size: int) -> Metrics:
    """Loss and accuracy of one model on one split. To be jitted.

    Args:
      apply: of a Flax module.
      task: batch, logits and metrics.
      variables: parameters, and measured statistics if it has any.
      arrays: of the split.
      batch_size: examples per batch.
    """
    sums = lambda batch, weight_B: task.metrics(task.logits(apply, variables, batch), batch, weight_B)
    return _means(add_up(sums, task, arrays, batch_size))


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
    """Loss and accuracy on every split. To be jitted.

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
    sample = None if sample_arrays is None else whole_batch(task, sample_arrays)
    variables = algorithm.variables(state, sample)
    subnet_variables = algorithm.subnet_variables(state, sample) if subnets else None

    def sums(batch: Batch, weight_B: Array) -> tuple[Metrics, Metrics]:
        one = lambda logits_BxC: task.metrics(logits_BxC, batch, weight_B)
        of_subnets_S = jax.vmap(one)(algorithm.subnet_predict(subnet_variables, batch)) if subnets else {}
        return one(algorithm.predict(variables, batch)), of_subnets_S

    def one_split(arrays: Any) -> Metrics:
        whole, of_subnets_S = add_up(sums, task, arrays, batch_size)
        return _means(whole) | ({"subnet_accuracy_S": _means(of_subnets_S)["accuracy"]} if subnets else {})

    return {name: one_split(arrays) for name, arrays in splits.items()}
