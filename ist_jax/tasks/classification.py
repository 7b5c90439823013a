"""Classification of independent examples: cross-entropy, accuracy and calibration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ist_jax.core.model import Model
from ist_jax.core.task import SHARE, MetricInfo, Selection, Sums, Task, means
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.augment import Size
from ist_jax.tasks.inputs import Moment, make_batch, predict

MOST_ACCURATE = Selection("accuracy", "max")
METRIC_INFO = {
    "loss": MetricInfo("min", "nats"),
    "accuracy": MetricInfo("max", SHARE),
    "calibration_error": MetricInfo("min", SHARE),
}
BINS = 15  # of confidence


def classifier_sums(logits_BxC: Array, label_B: Array, weight_B: Array) -> Sums:
    """The sums over examples from which `classifier_summary` computes the metrics."""
    loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, label_B)
    correct_B = (logits_BxC.argmax(axis=-1) == label_B).astype(weight_B.dtype)
    count = weight_B.sum()
    return {
        "means": {
            "loss": ((weight_B * loss_B).sum(), count),
            "accuracy": ((weight_B * correct_B).sum(), count),
        },
        "overconfidence": (_overconfidence(logits_BxC, correct_B, weight_B), count),
    }


def _overconfidence(logits_BxC: Array, correct_B: Array, weight_B: Array) -> Array:
    """[BINS]: confidence minus correctness, summed over the examples of each bin of confidence.

    Confidence is the largest probability. Bin i, from 0, is (i / BINS, (i + 1) / BINS].
    """
    confidence_B = jax.nn.softmax(logits_BxC).max(axis=-1)
    bin_B = jnp.clip(jnp.ceil(BINS * confidence_B).astype(jnp.int32) - 1, 0, BINS - 1)
    surplus_B = weight_B * (confidence_B - correct_B)
    return (surplus_B[:, None] * jax.nn.one_hot(bin_B, BINS)).sum(axis=0)


def classifier_summary(sums: Sums) -> dict[str, Array]:
    """Mean cross-entropy, accuracy, and the expected calibration error.

    The latter is the mean over examples of |accuracy - confidence| of their bin (Guo et al., ICML
    2017, equation 3).
    """
    total_15, count = sums["overconfidence"]
    return means(sums["means"]) | {"calibration_error": abs(total_15).sum() / count}


def check_classes(logits: Any, data: Any, labels: str = "y") -> None:
    """Checks that there is a logit for every class. More logits than classes are allowed.

    Args:
      logits: the array, or its ShapeDtypeStruct.
      data: a `Dataset`; its labels are checked, too, if they are in memory.
      labels: the name of the labels in its arrays.

    Raises:
      ValueError: there are fewer logits than classes, they are not an array [examples, logits], or
        labels are not classes.
    """
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(
            f"a classifier's outputs are an array [examples, classes], and these are "
            f"{'no array' if shape is None else f'of shape {list(shape)}'}: return a row of logits "
            "for every example"
        )
    splits = [data.arrays(part) for part in ("train", "validation", "test")]
    given = [split[labels] for split in splits if labels in split]
    for y in given:
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(
                f"a classifier's labels are integers, one for each example, but these are "
                f"{y.dtype}{list(y.shape)}: use the task of {data.task}"
            )
    largest = max((int(np.max(y)) for y in given), default=0)
    classes = max(data.num_classes, largest + 1)
    if shape[1] < classes:
        raise ValueError(
            f"a classifier has an output for every class: it has {shape[1]} outputs, and the data "
            f"have {classes} classes; give its last layer {classes}"
        )


def classification(
    mean: Moment = 0.0,
    std: Moment = 1.0,
    *,
    augment: str = "none",
    padding: int = 4,
    size: Size | None = None,
) -> Task:
    """The task over arrays {'x': [N, ...], 'y': int[N]}. Arguments are those of `make_batch`."""
    batch = make_batch(mean, std, augment=augment, padding=padding, size=size)

    def loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_BxC = model.apply(params, batch["x"], key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, batch["y"]).mean(), {}

    def metrics(logits_BxC: Array, batch: Batch, weight_B: Array) -> Sums:
        return classifier_sums(logits_BxC, batch["y"], weight_B)

    return Task(
        batch,
        loss,
        predict,
        metrics,
        MOST_ACCURATE,
        check=check_classes,
        summary=classifier_summary,
        metric_info=METRIC_INFO,
    )
