"""Augmentation of images on the device.

It runs inside the local step with the step's key, so a resumed run draws the same numbers.
"""

import math

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Key

AUGMENTS = ("none", "crop", "crop_flip", "resized_crop_flip")
# ranges of a resized crop (Szegedy et al., 2015)
_AREA = (0.08, 1.0)  # share of the image
_RATIO = (3 / 4, 4 / 3)  # width / height
_CHANNELS = (1, 3, 4)  # of grey images, colours, and colours with transparency
_SIDE = 8  # pixels; if height and width differ, both must be at least this long in an image

Size = tuple[int, ...]  # (height, width)


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape, without a batch axis, looks like (channels, height, width).

    Images have their channels last here: (height, width, channels).
    """
    if len(shape) != 3:
        return False
    channels, height, width = shape
    has_sides = height == width or min(height, width) >= _SIDE
    return channels in _CHANNELS and width not in _CHANNELS and channels < width and has_sides


def channels_first_problem(shape: tuple[int, ...]) -> str:
    """The message about inputs that have their channels first: their shape and the remedy."""
    return (
        f"inputs of shape {shape} look like images with their channels first, and channels come "
        "last here: x.transpose(0, 2, 3, 1)"
    )


def augment_images(
    name: str, x_BxHxW: Array, key: Key | None, padding: int, size: Size | None = None
) -> Array:
    """Augmented images [B, *size[, channels]].

    'crop' pads with zeros and crops at random. 'crop_flip' also flips half of the images.
    'resized_crop_flip' resizes a random part of each image, and flips half of the images. 'none'
    crops the centre.

    Args:
      name: a name of `AUGMENTS`.
      x_BxHxW: images (examples, height, width[, channels]); 'none' accepts any inputs.
      key: PRNG key of the step; 'none' needs none.
      padding: pixels on every side, for 'crop' and 'crop_flip'.
      size: (height, width) of the result; None: that of the images.

    Raises:
      ValueError: the name is unknown, the inputs are not images, or their channels come first.
    """
    if name not in AUGMENTS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTS)}, not {name!r}")
    size = size or x_BxHxW.shape[1:3]
    if name == "none":
        return centre_crop(x_BxHxW, size) if x_BxHxW.ndim > 2 else x_BxHxW
    if x_BxHxW.ndim not in (3, 4):
        raise ValueError(
            f"augment={name!r} is of images, (examples, height, width[, channels]), "
            f"not shape {x_BxHxW.shape}"
        )
    if has_channels_first(x_BxHxW.shape[1:]):
        raise ValueError(f"augment={name!r}: {channels_first_problem(x_BxHxW.shape[1:])}")
    assert key is not None  # local steps have one, and nothing else augments
    crop_key, flip_key = jax.random.split(key)
    if name == "resized_crop_flip":
        return _random_flip(_resized_crop(x_BxHxW, crop_key, size), flip_key)
    x_BxHxW = _padded_crop(x_BxHxW, crop_key, padding, size)
    return _random_flip(x_BxHxW, flip_key) if name == "crop_flip" else x_BxHxW


def centre_crop(x_BxHxW: Array, size: Size) -> Array:
    """The central part of every image."""
    top, left = ((length - wanted) // 2 for length, wanted in zip(x_BxHxW.shape[1:3], size))
    return x_BxHxW[:, top : top + size[0], left : left + size[1]]


def _padded_crop(x_BxHxW: Array, key: Key, padding: int, size: Size) -> Array:
    """A random crop of each image, which is first padded with zeros."""
    sides = [(0, 0), (padding, padding), (padding, padding)] + [(0, 0)] * (x_BxHxW.ndim - 3)
    last_1x2 = 2 * padding + jnp.array([x_BxHxW.shape[1:3]]) - jnp.array([size])
    corner_Bx2 = jax.random.randint(key, (x_BxHxW.shape[0], 2), 0, last_1x2 + 1)

    def crop(image: Array, corner: Array) -> Array:
        begin = (*corner, *[0] * (image.ndim - 2))
        return jax.lax.dynamic_slice(image, begin, (*size, *image.shape[2:]))

    return jax.vmap(crop)(jnp.pad(x_BxHxW, sides), corner_Bx2)


def _resized_crop(x_BxHxW: Array, key: Key, size: Size) -> Array:
    """A part of each image, of random area, shape and place, resized to `size`.

    Sides are at most as long as the image's.
    """
    area_key, ratio_key, corner_key = jax.random.split(key, 3)
    count = x_BxHxW.shape[0]
    image_1x2, size_1x2 = jnp.array([x_BxHxW.shape[1:3]]), jnp.array([size])
    area_B = jax.random.uniform(area_key, (count,), minval=_AREA[0], maxval=_AREA[1])
    low, high = map(math.log, _RATIO)
    ratio_B = jnp.exp(jax.random.uniform(ratio_key, (count,), minval=low, maxval=high))
    share_Bx2 = jnp.sqrt(jnp.stack([area_B / ratio_B, area_B * ratio_B], axis=1))
    sides_Bx2 = jnp.minimum(share_Bx2, 1) * image_1x2
    corner_Bx2 = jax.random.uniform(corner_key, (count, 2)) * (image_1x2 - sides_Bx2)
    scale_Bx2 = size_1x2 / sides_Bx2

    def resize(image: Array, scale: Array, corner: Array) -> Array:
        shape = (*size, *image.shape[2:])
        return jax.image.scale_and_translate(
            image, shape, (0, 1), scale, -corner * scale, "linear", antialias=True
        )

    return jax.vmap(resize)(x_BxHxW.astype(jnp.float32), scale_Bx2, corner_Bx2)


def _random_flip(x_BxHxW: Array, key: Key) -> Array:
    """Flips each image horizontally with probability 1/2."""
    is_flipped_B = jax.random.bernoulli(key, shape=x_BxHxW.shape[:1])
    is_flipped = is_flipped_B.reshape(-1, *[1] * (x_BxHxW.ndim - 1))
    return jnp.where(is_flipped, jnp.flip(x_BxHxW, axis=2), x_BxHxW)
