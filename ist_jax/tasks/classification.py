"""Classification of independent examples: cross-entropy and accuracy."""

from typing import Any

import jax.numpy as jnp
import optax

from ist_jax.core.types import Apply, Array, Batch, Key, Metrics, Variables
from ist_jax.tasks.augment import augment_images
from ist_jax.tasks.base import Task


def classification(
    mean: float = 0.0,
    std: float = 1.0,
    *,
    augment: str = "none",
    padding: int = 4,
    size: tuple[int, int] | None = None,
) -> Task:
    """A task over arrays {'x': [N, ...], 'y': int[N]}.

    Args:
      mean: subtracted from every input, which stays in its stored dtype (uint8 images) until it is gathered.
      std: divides every input after that.
      augment: of the images of local steps, before that; a name of `AUGMENTS`.
      padding: pixels on every side of an image before it is cropped.
      size: height and width of a batch's images, of which stored ones may have more: None for what is stored.
    """

    def batch(arrays: Any, index_B: Array, key: Key | None) -> Batch:
        x = jnp.take(arrays["x"], index_B, axis=0)
        x = augment_images(augment if key is not None else "none", x, key, padding, size)
        x = (
            x.astype(jnp.promote_types(x.dtype, jnp.float32))
            if x.dtype != jnp.uint8
            else x.astype(jnp.float32)
        )
        return {"x": (x - mean) / std, "y": jnp.take(arrays["y"], index_B, axis=0)}

    def loss(apply: Apply, variables: Variables, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_BxC = apply(variables, batch["x"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, batch["y"]).mean(), {}

    def logits(apply: Apply, variables: Variables, batch: Batch) -> Any:
        return apply(variables, batch["x"])

    def metrics(logits_BxC: Array, batch: Batch, weight_B: Array) -> Metrics:
        loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, batch["y"])
        correct_B = (logits_BxC.argmax(axis=-1) == batch["y"]).astype(weight_B.dtype)
        return {
            "loss": (weight_B * loss_B).sum(),
            "correct": (weight_B * correct_B).sum(),
            "count": weight_B.sum(),
        }

    return Task(batch, loss, logits, metrics)
