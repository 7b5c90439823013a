"""Regression: mean squared and absolute error, and the coefficient of determination."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ist_jax.core.model import Model
from ist_jax.core.task import MetricInfo, Selection, Sums, Task, means
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.augment import Size
from ist_jax.tasks.inputs import Moment, check_kind, make_batch, predict

METRIC_INFO = {
    "loss": MetricInfo("min"),
    "mse": MetricInfo("min"),
    "mae": MetricInfo("min"),
    "r2": MetricInfo("max"),
}
ROUNDING = 1e-6  # of a float32 sum of squares: a smaller variation is none


def check_targets(outputs: Any, data: Any) -> None:
    """Checks that there is an output for every target.

    Args:
      outputs: the array, or its ShapeDtypeStruct.
      data: a `Dataset`.

    Raises:
      ValueError: outputs are not an array [examples] or [examples, targets] with an output for
        every target, or the data are of another kind.
    """
    check_kind(data, "regression")
    shape, wanted = getattr(outputs, "shape", None), data.num_classes
    if shape is None or len(shape) not in (1, 2) or math.prod(shape[1:]) != wanted:
        raise ValueError(
            f"outputs of regression are an array [examples, {wanted}], one for every target, but "
            f"these are {'no array' if shape is None else f'of shape {list(shape)}'}: give the "
            f"last layer {wanted} outputs"
        )


def regression(
    mean: Moment = 0.0,
    std: Moment = 1.0,
    *,
    target_mean: Moment = 0.0,
    target_std: Moment = 1.0,
    augment: str = "none",
    padding: int = 4,
    size: Size | None = None,
) -> Task:
    """The task over arrays {'x': [N, ...], 'y': [N] or [N, K]}.

    A model's outputs [B, K], or [B], stand for (target - target_mean) / target_std. The loss is
    their mean squared error. The metrics 'mse', 'mae' and 'r2' are those of the targets themselves,
    averaged over targets.

    Args:
      mean, std, augment, padding, size: as in `make_batch`.
      target_mean, target_std: numbers, or one for each target: those of the training targets
        (`Dataset.target_mean`). Far from them, sums in float32 make 'r2' inexact.
    """
    batch = make_batch(mean, std, augment=augment, padding=padding, size=size)
    shift_K = np.asarray(target_mean, np.float32).reshape(-1)
    scale_K = np.asarray(target_std, np.float32).reshape(-1)

    def errors(outputs: Array, batch: Batch) -> tuple[Array, Array]:
        """(error_BxK, target_BxK), both divided by the targets' deviation."""
        target_BxK = batch["y"].reshape(outputs.shape[0], -1)
        target_BxK = (target_BxK - shift_K[None]) / scale_K[None]
        return outputs.reshape(target_BxK.shape) - target_BxK, target_BxK

    def loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        error_BxK, _ = errors(model.apply(params, batch["x"], key=key), batch)
        return (error_BxK**2).mean(), {}

    def metrics(outputs: Array, batch: Batch, weight_B: Array) -> Sums:
        error_BxK, target_BxK = errors(outputs, batch)
        total_K = lambda value_BxK: (weight_B[:, None] * value_BxK).sum(axis=0)
        return {
            "count": weight_B.sum(),
            "squared_error_K": total_K(error_BxK**2),
            "absolute_error_K": total_K(abs(error_BxK)),
            "target_K": total_K(target_BxK),
            "squared_target_K": total_K(target_BxK**2),
        }

    def summary(sums: Sums) -> dict[str, Array]:
        count, squared_K = sums["count"], sums["squared_error_K"]
        averages = {
            "loss": (squared_K.mean(), count),
            "mse": ((scale_K**2 * squared_K).mean(), count),
            "mae": ((scale_K * sums["absolute_error_K"]).mean(), count),
        }
        variation_K = sums["squared_target_K"] - sums["target_K"] ** 2 / count
        varies_K = variation_K > ROUNDING * sums["squared_target_K"]
        return means(averages) | {"r2": _determination(squared_K, variation_K, varies_K).mean()}

    return Task(
        batch,
        loss,
        predict,
        metrics,
        Selection("mse", "min"),
        check=check_targets,
        summary=summary,
        metric_info=METRIC_INFO,
    )


def _determination(squared_K: Array, variation_K: Array, varies_K: Array) -> Array:
    """R2 of every target: 1 - squared error / variation.

    If a target does not vary, R2 is 1 for a perfect prediction, else 0, as in scikit-learn.
    """
    share_K = squared_K / jnp.where(varies_K, variation_K, 1)
    return jnp.where(varies_K, 1 - share_K, jnp.where(squared_K == 0, 1.0, 0.0))
