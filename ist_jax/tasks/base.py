"""What a task is: the batch, the loss and the metrics of one kind of problem."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ist_jax.core.types import Apply, Array, Batch, Key, Metrics, Variables


def leading_axis(arrays: Any) -> int:
    """Examples of arrays that all have an example axis."""
    return jax.tree.leaves(arrays)[0].shape[0]


class Task(NamedTuple):
    """Knows neither method nor model.

    Attributes:
      batch: (arrays, index_B, key or None) -> batch: gathers one step's examples, and augments them if there
        is a key. Runs inside the compiled local steps.
      loss: (apply, variables, batch, key) -> (loss, aux): the mean over the batch.
      logits: (apply, variables, batch) -> what the model predicts, without randomness.
      metrics: (logits, batch, weight_B) -> sums to be added up over batches: 'loss', 'correct', 'count'.
      num_examples: arrays -> how many examples they hold.
    """

    batch: Callable[[Any, Array, Key | None], Batch]
    loss: Callable[[Apply, Variables, Batch, Key], tuple[Array, Any]]
    logits: Callable[[Apply, Variables, Batch], Any]
    metrics: Callable[[Array, Batch, Array], Metrics]
    num_examples: Callable[[Any], int] = leading_axis
