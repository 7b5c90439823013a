"""Prediction of the next token: cross-entropy, perplexity, bits per byte and accuracy."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.model import Model
from ist_jax.core.task import SHARE, MetricInfo, Selection, Sums, Task, means
from ist_jax.core.types import Array, Batch, Key, Params

_LARGEST_EXPONENT = 88.0  # of a finite float32
_INFO = {
    "loss": MetricInfo("min", "nats"),
    "perplexity": MetricInfo("min"),
    "accuracy": MetricInfo("max", SHARE),
}


def _windows(arrays: Any, index_B: Array, length: int, key: Key | None) -> Array:
    """[B, length]: the tokens of windows; with a key, each one is shifted at random.

    `arrays` has the start of every window, and either the stream of all tokens [T] or, if that
    stays on disk, a row of the stream around every window [N, W].
    """
    start_B = arrays["start"][index_B]
    source = arrays["row"] if "row" in arrays else arrays["tokens"]
    if key is not None:
        shift_B = jax.random.randint(key, start_B.shape, 0, length - 1)
        start_B = jnp.minimum(start_B + shift_B, source.shape[-1] - length)
    position_BxL = start_B[:, None] + jnp.arange(length)[None]
    if "row" in arrays:
        return jnp.take_along_axis(source[index_B], position_BxL, axis=1)
    return source[position_BxL]


def _check(context: int, logits: Any, data: Any) -> None:
    """Raises ValueError unless there is a logit for every token of the vocabulary."""
    shape, wanted = getattr(logits, "shape", None), data.num_classes
    if shape is None or len(shape) != 3 or shape[1] != context or shape[2] < wanted:
        raise ValueError(
            f"the outputs are logits [sequences, {context}, at least {wanted}], but these are "
            f"{'no array' if shape is None else f'of shape {list(shape)}'}: return a row of logits "
            "over the vocabulary for every token"
        )


def _summary(sums: Sums, bytes_per_token: float) -> dict[str, Array]:
    metrics = means(sums)
    metrics["perplexity"] = jnp.exp(jnp.minimum(metrics["loss"], _LARGEST_EXPONENT))
    if bytes_per_token:
        metrics["bits_per_byte"] = metrics["loss"] / (bytes_per_token * math.log(2))
    return metrics


def next_token(context: int, *, shift: bool = True, bytes_per_token: float = 0.0) -> Task:
    """The task over the arrays of `data.make_token_dataset`.

    An example is a window of `context` tokens and the one after it. Metrics are means over tokens:
    'loss' (cross-entropy in nats), 'perplexity' (its exponential, at most e^88) and 'accuracy'.

    Args:
      context: tokens that the model reads.
      shift: whether training windows are shifted by 0 to context - 1 tokens, drawn anew in every
        step. No window goes beyond the end of the split.
      bytes_per_token: bytes of text per token, for 'bits_per_byte'; 0: unknown.
    """

    def batch(arrays: Any, index_B: Array, key: Key | None) -> Batch:
        window = _windows(arrays, index_B, context + 1, key if shift else None).astype(jnp.int32)
        return {"x": window[:, :-1], "y": window[:, 1:]}

    def predict(model: Model, params: Params, batch: Batch) -> Array:
        return model.apply(params, batch["x"])

    def loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_BxLxV = model.apply(params, batch["x"], key=key)
        loss_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, batch["y"])
        return loss_BxL.mean(), {}

    def metrics(logits_BxLxV: Array, batch: Batch, weight_B: Array) -> Sums:
        loss_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, batch["y"])
        correct_BxL = (logits_BxLxV.argmax(axis=-1) == batch["y"]).astype(weight_B.dtype)
        tokens = context * weight_B.sum()
        return {
            "loss": ((weight_B * loss_BxL.sum(axis=1)).sum(), tokens),
            "accuracy": ((weight_B * correct_BxL.sum(axis=1)).sum(), tokens),
        }

    bits = {"bits_per_byte": MetricInfo("min", "bits")} if bytes_per_token else {}
    return Task(
        batch,
        loss,
        predict,
        metrics,
        Selection("loss", "min"),
        num_examples=lambda arrays: arrays["start"].shape[0],
        check=functools.partial(_check, context),
        summary=functools.partial(_summary, bytes_per_token=bytes_per_token),
        metric_info=_INFO | bits,
    )
