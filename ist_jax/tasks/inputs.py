"""Batches of independent examples: their inputs are gathered, augmented and standardised."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ist_jax.core.model import Model
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.augment import Size, augment_images

Moment = float | Sequence[Any]


def make_batch(
    mean: Moment = 0.0,
    std: Moment = 1.0,
    *,
    augment: str = "none",
    padding: int = 4,
    size: Size | None = None,
) -> Callable[[Any, Array, Key | None], Batch]:
    """`Task.batch` over arrays {'x': [N, ...], 'y': [N, ...]}, or sparse ones (`data.sparse`).

    Args:
      mean: subtracted from all inputs of a batch: a number, or an array of the shape of an input.
        Stored inputs keep their dtype, such as uint8.
      std: inputs are divided by it after that.
      augment: how images are augmented in local steps, before normalisation; a name of `AUGMENTS`.
      padding: pixels added to every side of an image before it is cropped.
      size: (height, width) of a batch's images, if stored images are larger; None: the stored size.
    """

    def batch(arrays: Any, index_B: Array, key: Key | None) -> Batch:
        x = _gathered(arrays, index_B)
        x = augment_images(augment if key is not None else "none", x, key, padding, size)
        return {"x": standardised(x, mean, std), "y": jnp.take(arrays["y"], index_B, axis=0)}

    return batch


def predict(model: Model, params: Params, batch: Batch) -> Array:
    """`Task.predict`: the model's outputs for the inputs of a batch."""
    return model.apply(params, batch["x"])


def check_kind(data: Any, kind: str) -> None:
    """Raises ValueError if the targets of a `Dataset` are of another kind than a task learns."""
    if data.task != kind:
        raise ValueError(
            f"the task is {kind}, but the data are for {data.task}: use the task of the data, or "
            f"make the data with task={kind!r}"
        )


def _gathered(arrays: Any, index_B: Array) -> Array:
    """The inputs of the examples `index_B`. Sparse ones become dense."""
    if "x" in arrays:
        return jnp.take(arrays["x"], index_B, axis=0)
    column_BxW, value_BxW = (
        jnp.take(arrays[name], index_B, axis=0) for name in ("x_column", "x_value")
    )
    zeros_D = arrays["zeros_D"]
    zeros_BxD = jnp.broadcast_to(zeros_D[None], (index_B.shape[0], *zeros_D.shape))
    row_Bx1 = jnp.arange(index_B.shape[0], dtype=jnp.int32)[:, None]
    return zeros_BxD.at[row_Bx1, column_BxW].set(value_BxW, mode="drop")


def standardised(x: Array, mean: Moment, std: Moment) -> Array:
    """(x - mean) / std in float32 or wider.

    With mean 0 and std 1, integers stay integers, for models of tokens or categories. uint8 stands
    for images, and becomes float32.
    """
    is_integer = jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != jnp.uint8
    if is_integer and np.ndim(mean) == np.ndim(std) == 0 and (mean, std) == (0, 1):
        return x
    float_dtype = jnp.float32 if x.dtype == jnp.uint8 else jnp.promote_types(x.dtype, jnp.float32)
    shift, scale = _for_batch(mean, float_dtype), _for_batch(std, float_dtype)
    return (x.astype(float_dtype) - shift) / scale


def _for_batch(moment: Moment, dtype: Any) -> Any:
    """A mean or deviation that broadcasts over a batch: a number, or an array [1, ...]."""
    return jnp.asarray(moment, dtype)[None] if np.ndim(moment) else moment
