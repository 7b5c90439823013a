"""Augmentation of images on the device, inside the local step, from the step's key: a resumed run draws the same."""

import jax
import jax.numpy as jnp

from ist_jax.types import Array, Key

AUGMENTS = ("none", "crop", "crop_flip")


def augmented(name: str, x_BxHxW: Array, key: Key, padding: int) -> Array:
    """Images, each padded with zeros, cropped at random to its own size and, by 'crop_flip', mirrored or not.

    Args:
      name: a name of `AUGMENTS`.
      x_BxHxW: images (examples, height, width[, channels]).
      key: of this step.
      padding: pixels on every side.

    Raises:
      ValueError: an unknown name, or inputs that are no images.
    """
    if name not in AUGMENTS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTS)}, not {name!r}")
    if name == "none":
        return x_BxHxW
    if x_BxHxW.ndim not in (3, 4):
        raise ValueError(f"augment={name!r} is of images, (examples, height, width[, channels]), not shape {x_BxHxW.shape}")
    crop_key, flip_key = jax.random.split(key)
    count, *shape = x_BxHxW.shape
    sides = [(0, 0), (padding, padding), (padding, padding)] + [(0, 0)] * (x_BxHxW.ndim - 3)
    corner_Bx2 = jax.random.randint(crop_key, (count, 2), 0, 2 * padding + 1)
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, *[0] * (image.ndim - 2)), shape)
    x_BxHxW = jax.vmap(crop)(jnp.pad(x_BxHxW, sides), corner_Bx2)
    if name == "crop_flip":
        mirrored_B = jax.random.bernoulli(flip_key, shape=(count,)).reshape(-1, *[1] * len(shape))
        x_BxHxW = jnp.where(mirrored_B, jnp.flip(x_BxHxW, axis=2), x_BxHxW)
    return x_BxHxW
