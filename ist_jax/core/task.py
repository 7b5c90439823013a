"""Tasks: the batches, loss, predictions and metrics of one kind of problem."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

from ist_jax.core.model import Model
from ist_jax.core.types import Array, Batch, Key, Params

Sums = Any  # a pytree of sums over examples; `means` takes {metric: (weighted sum, weight)}

SHARE = "share"  # the unit of metrics from 0 to 1, which tables show in per cent


def means(sums: Sums) -> dict[str, Array]:
    """The ratio of every metric's weighted sum to its weight."""
    return {name: total / weight for name, (total, weight) in sums.items()}


class MetricInfo(NamedTuple):
    """What tables and pictures need to know about a metric.

    Attributes:
      best: 'max' if the largest value is best, 'min' if the smallest is.
      unit: such as 'nats'; `SHARE` for a share of examples; '' for a plain number.
    """

    best: Literal["max", "min"]
    unit: str = ""


def leading_axis(arrays: Any) -> int:
    """The length of the leading axis, which all arrays share: the number of examples."""
    return jax.tree.leaves(arrays)[0].shape[0]


class Selection(NamedTuple):
    """The metric that picks the best evaluation of a run, on validation data.

    Attributes:
      metric: a name that the task's `metrics` returns.
      best: 'max' if the largest value is best, 'min' if the smallest is.
    """

    metric: str
    best: Literal["max", "min"]

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best`, the best so far; None: there is no value yet."""
        if best is None:
            return True
        return value > best if self.best == "max" else value < best


class Task(NamedTuple):
    """One kind of problem. It knows neither the method nor the model.

    Attributes:
      batch: (arrays, index_B, key or None) -> batch. It gathers the examples `index_B`, and with a
        key augments them. It runs inside the compiled local steps.
      loss: (model, params, batch, key) -> (loss, aux). The loss is a mean over the batch. The key
        is for dropout. If batches have different numbers of examples, or none, `aux` is a mapping
        with "weight": float32[], the number of examples that the loss is a mean over. Means
        over batches are weighted by it, and a step on a batch of weight 0 changes no parameter.
        Without it, all batches have the same weight.
      predict: (model, params, batch) -> outputs, without randomness. It calls `model.apply` once;
        the model has its normalisation statistics already (`core.model.Calibrated`).
      metrics: (outputs, batch, weight_B) -> sums over the examples of a batch, each multiplied by
        its weight. By default {name: (weighted sum, weight)}; a task with a `summary` may return
        any tree of arrays. Evaluation adds it up over batches.
      selects: the metric that picks the best evaluation.
      num_examples: arrays -> number of examples.
      check: (outputs, data) -> None. It raises ValueError if the shapes of `predict`'s outputs do
        not fit the data, an `ist_jax.data.Dataset`. It is called before training. None: any outputs
        fit.
      summary: sums over a split -> {name: value}, traceable by JAX. By default, `means`.
      metric_info: name -> the metric's direction and unit. Metrics without an entry are shown as
        plain numbers.
    """

    batch: Callable[[Any, Array, Key | None], Batch]
    loss: Callable[[Model, Params, Batch, Key], tuple[Array, Any]]
    predict: Callable[[Model, Params, Batch], Any]
    metrics: Callable[[Any, Batch, Array], Sums]
    selects: Selection
    num_examples: Callable[[Any], int] = leading_axis
    check: Callable[[Any, Any], None] | None = None
    summary: Callable[[Sums], Mapping[str, Array]] = means
    metric_info: Mapping[str, MetricInfo] = MappingProxyType({})


def weight_of(aux: Any) -> Array | None:
    """The number of examples that a loss is a mean over; None: the same for every batch."""
    return aux.get("weight") if isinstance(aux, Mapping) else None
