"""Predictors: functions from batches to outputs, made from a state for evaluation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ist_jax.core.model import Calibrated, Model, Stats
from ist_jax.core.task import Task
from ist_jax.core.types import Array, Batch, Indices, Key, Params

Predict = Callable[[Params, Stats | None, Indices, Batch], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictor:
    """A callable pytree: batch -> outputs.

    Attributes:
      params: the parameters of one model, or of all S workers' models, stacked.
      stats: their normalisation statistics; None: every batch is normalised with its own.
      indices: the units in the order of the parameters, if inputs are split as well; {} otherwise.
      function: (params, stats, indices, batch) -> outputs.
    """

    params: Params
    stats: Stats | None
    indices: Indices
    function: Predict = dataclasses.field(metadata={"static": True})

    def __call__(self, batch: Batch) -> Any:
        return self.function(self.params, self.stats, self.indices, batch)


@dataclasses.dataclass(frozen=True, eq=False)
class _Measuring:
    """A model that records the statistics of the inputs it is applied to."""

    model: Model
    measured: list[Stats] = dataclasses.field(default_factory=list)

    def init(self, key: Key, example: Any) -> Params:
        return self.model.init(key, example)

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        self.measured.append(self.model.measure(params, inputs))
        return self.model.apply(params, inputs, key=key, stats=self.measured[-1])

    def measure(self, params: Params, inputs: Any) -> Stats:
        return self.model.measure(params, inputs)


def measure_stats(
    model: Model, task: Task, params: Params, calibration: Batch | None
) -> Stats | None:
    """The normalisation statistics of the model on a calibration batch; None without a batch.

    With statistics, a prediction does not depend on how the test set is cut into batches. Without
    them, every batch is normalised with its own, as in the authors' code.
    """
    if calibration is None:
        return None
    measuring = _Measuring(model)
    task.predict(measuring, params, calibration)
    return measuring.measured[-1]


def model_predictor(model: Model, task: Task, params: Params, stats: Stats | None) -> Predictor:
    """The predictor of one model whose inputs are not split."""

    def predict(params: Params, stats: Stats | None, indices: Indices, batch: Batch) -> Any:
        del indices
        return task.predict(Calibrated(model, stats), params, batch)

    return Predictor(params, stats, {}, predict)
