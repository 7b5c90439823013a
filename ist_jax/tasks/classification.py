"""Classification of independent examples: cross-entropy and accuracy."""

from typing import Any

import numpy as np
import optax

from ist_jax.core.model import Model
from ist_jax.core.task import Selection, Sums, Task
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.augment import Size
from ist_jax.tasks.inputs import Moment, make_batch

MOST_ACCURATE = Selection("accuracy", "max")


def loss_and_accuracy(logits_BxC: Array, label_B: Array, weight_B: Array) -> Sums:
    """The metrics of classifiers, summed over examples: cross-entropy and correct predictions."""
    loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, label_B)
    correct_B = (logits_BxC.argmax(axis=-1) == label_B).astype(weight_B.dtype)
    count = weight_B.sum()
    return {
        "loss": ((weight_B * loss_B).sum(), count),
        "accuracy": ((weight_B * correct_B).sum(), count),
    }


def check_classes(logits: Any, data: Any, labels: str = "y") -> None:
    """Checks that there is a logit for every class. More logits than classes are allowed.

    Args:
      logits: the array, or its ShapeDtypeStruct.
      data: a `Dataset`; its labels are checked, too, if they are in memory.
      labels: the name of the labels in its arrays.

    Raises:
      ValueError: there are fewer logits than classes, or they are not an array [examples, logits].
    """
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(
            f"a classifier's outputs are an array [examples, classes], and these are "
            f"{'no array' if shape is None else f'of shape {list(shape)}'}: return a row of logits "
            "for every example"
        )
    splits = [data.arrays(part) for part in ("train", "validation", "test")]
    largest = max((int(np.max(split[labels])) for split in splits if labels in split), default=0)
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

    def predict(model: Model, params: Params, batch: Batch) -> Array:
        return model.apply(params, batch["x"])

    def metrics(logits_BxC: Array, batch: Batch, weight_B: Array) -> Sums:
        return loss_and_accuracy(logits_BxC, batch["y"], weight_B)

    return Task(batch, loss, predict, metrics, MOST_ACCURATE, check=check_classes)
