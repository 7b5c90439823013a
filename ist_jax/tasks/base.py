"""What a task is: the batch, the loss and the metrics of one kind of problem."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from ist_jax.core.types import Apply, Array, Batch, Key, Metrics, Variables


def leading_axis(arrays: Any) -> int:
    """Examples of arrays that all have an example axis."""
    return jax.tree.leaves(arrays)[0].shape[0]


class Selection(NamedTuple):
    """The metric that picks the best evaluation of a run, on validation data.

    Attributes:
      metric: a name that the task's `metrics` returns.
      best: whether the largest value is the best one, or the smallest.
    """

    metric: str
    best: Literal["max", "min"]

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best one so far; None: there is none yet."""
        if best is None:
            return True
        return value > best if self.best == "max" else value < best


class Task(NamedTuple):
    """Knows neither method nor model.

    Attributes:
      batch: (arrays, index_B, key or None) -> batch: gathers one step's examples, and augments them if there
        is a key. Runs inside the compiled local steps.
      loss: (apply, variables, batch, key) -> (loss, aux): the mean over the batch.
      logits: (apply, variables, batch) -> what the model predicts, without randomness.
      metrics: (logits, batch, weight_B) -> sums to be added up over batches: 'loss', 'correct', 'count'.
      num_examples: arrays -> how many examples they hold.
      selects: the metric that picks the best evaluation.
    """

    batch: Callable[[Any, Array, Key | None], Batch]
    loss: Callable[[Apply, Variables, Batch, Key], tuple[Array, Any]]
    logits: Callable[[Apply, Variables, Batch], Any]
    metrics: Callable[[Array, Batch, Array], Metrics]
    num_examples: Callable[[Any], int] = leading_axis
    selects: Selection = Selection("accuracy", "max")
