"""Augmentation of images on the device, inside the local step, from the step's key: a resumed run draws the same."""

import math

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Key

AUGMENTS = ("none", "crop", "crop_flip", "resized_crop_flip")
_SHARE, _RATIO = (
    (0.08, 1.0),
    (3 / 4, 4 / 3),
)  # of the area; of width to height (Szegedy et al., 2015)


def central(x_BxHxW: Array, size: tuple[int, int]) -> Array:
    """The middle of larger images."""
    top, left = ((length - wanted) // 2 for length, wanted in zip(x_BxHxW.shape[1:3], size))
    return x_BxHxW[:, top : top + size[0], left : left + size[1]]


def _resized_crops(x_BxHxW: Array, key: Key, size: tuple[int, int]) -> Array:
    """A part of every image, of random area, shape and place, resized; sides that would be longer than the image's are cut."""
    area_key, ratio_key, corner_key = jax.random.split(key, 3)
    count, whole_1x2, size_1x2 = (
        x_BxHxW.shape[0],
        jnp.array([x_BxHxW.shape[1:3]]),
        jnp.array([size]),
    )
    share_B = jax.random.uniform(area_key, (count,), minval=_SHARE[0], maxval=_SHARE[1])
    ratio_B = jnp.exp(
        jax.random.uniform(
            ratio_key, (count,), minval=math.log(_RATIO[0]), maxval=math.log(_RATIO[1])
        )
    )
    sides_Bx2 = (
        jnp.minimum(jnp.sqrt(jnp.stack([share_B / ratio_B, share_B * ratio_B], axis=1)), 1)
        * whole_1x2
    )
    corner_Bx2 = jax.random.uniform(corner_key, (count, 2)) * (whole_1x2 - sides_Bx2)
    scale_Bx2 = size_1x2 / sides_Bx2

    def one(image: Array, scale: Array, corner: Array) -> Array:
        shape = (*size, *image.shape[2:])
        return jax.image.scale_and_translate(
            image, shape, (0, 1), scale, -corner * scale, "linear", antialias=True
        )

    return jax.vmap(one)(x_BxHxW.astype(jnp.float32), scale_Bx2, corner_Bx2)


def augmented(
    name: str, x_BxHxW: Array, key: Key, padding: int, size: tuple[int, int] | None = None
) -> Array:
    """Images, each padded with zeros, cropped at random and, by 'crop_flip', mirrored or not; or, by 'resized_crop_flip', a
    part of each of random size and place, resized, mirrored or not.

    Args:
      name: a name of `AUGMENTS`.
      x_BxHxW: images (examples, height, width[, channels]).
      key: of this step.
      padding: pixels on every side; 'resized_crop_flip' does not pad.
      size: height and width of what is returned, by default those of the images.

    Raises:
      ValueError: an unknown name, or inputs that are no images.
    """
    if name not in AUGMENTS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTS)}, not {name!r}")
    size = size or x_BxHxW.shape[1:3]
    if name == "none":
        return central(x_BxHxW, size) if x_BxHxW.ndim > 2 else x_BxHxW
    if x_BxHxW.ndim not in (3, 4):
        raise ValueError(
            f"augment={name!r} is of images, (examples, height, width[, channels]), not shape {x_BxHxW.shape}"
        )
    crop_key, flip_key = jax.random.split(key)
    if name == "resized_crop_flip":
        return _mirrored(_resized_crops(x_BxHxW, crop_key, size), flip_key)
    shape, most_1x2 = (
        (*size, *x_BxHxW.shape[3:]),
        2 * padding + jnp.array([x_BxHxW.shape[1:3]]) - jnp.array([size]),
    )
    sides = [(0, 0), (padding, padding), (padding, padding)] + [(0, 0)] * (x_BxHxW.ndim - 3)
    corner_Bx2 = jax.random.randint(crop_key, (x_BxHxW.shape[0], 2), 0, most_1x2 + 1)
    crop = lambda image, corner: jax.lax.dynamic_slice(
        image, (*corner, *[0] * (image.ndim - 2)), shape
    )
    x_BxHxW = jax.vmap(crop)(jnp.pad(x_BxHxW, sides), corner_Bx2)
    return _mirrored(x_BxHxW, flip_key) if name == "crop_flip" else x_BxHxW


def _mirrored(x_BxHxW: Array, key: Key) -> Array:
    """Images, every other one of them, at random, with left and right exchanged."""
    mirrored_B = jax.random.bernoulli(key, shape=x_BxHxW.shape[:1]).reshape(
        -1, *[1] * (x_BxHxW.ndim - 1)
    )
    return jnp.where(mirrored_B, jnp.flip(x_BxHxW, axis=2), x_BxHxW)
