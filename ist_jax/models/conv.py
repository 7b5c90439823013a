"""A 2-D convolution whose gradients are also fast inside `lax.scan` and `nn.scan`.

XLA's CPU backend has a fast convolution for images in NHWC and kernels in HWIO. JAX's automatic
differentiation gives convolutions with other dimension orders. Outside loops, XLA transposes them
to the fast order. Inside loops, they run as plain nested loops, up to 34 times slower
(experiments/resist). So this file writes the gradients in the fast order, and those of 1 x 1
kernels as matrix products. On GPUs and TPUs, where XLA chooses layouts itself, `Conv` uses JAX's
gradients.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ist_jax.core.types import Array

_ORDER = ("NHWC", "HWIO", "NHWC")
_Padding = tuple[tuple[int, int], tuple[int, int]]


def _padding(kernel: Array) -> _Padding:
    """Half of the kernel on both sides, for every stride, as in the authors' frameworks."""
    height, width = kernel.shape[:2]
    return ((height // 2, height // 2), (width // 2, width // 2))


def plain_conv(x_BxHxWxI: Array, kernel: Array, stride: int) -> Array:
    """JAX's convolution and gradients, padded by half of the kernel on both sides."""
    return lax.conv_general_dilated(
        x_BxHxWxI, kernel, (stride, stride), _padding(kernel), dimension_numbers=_ORDER
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x_BxHxWxI: Array, kernel: Array, stride: int) -> Array:
    """`plain_conv`, with gradients in the dimension order that is fast in loops on a CPU.

    Args:
      x_BxHxWxI: images.
      kernel: (height, width, input channels, output channels).
      stride: in both directions.
    """
    return plain_conv(x_BxHxWxI, kernel, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return plain_conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    if kernel.shape[:2] == (1, 1):
        return _backward_1x1(stride, x, kernel, dy)
    return _input_gradient(stride, x, kernel, dy), _kernel_gradient(stride, x, kernel, dy)


def _backward_1x1(stride: int, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    read = x[:, ::stride, ::stride]  # the pixels that the kernel reads
    dx = jnp.einsum("bhwo,io->bhwi", dy, kernel[0, 0])
    d_kernel = jnp.einsum("bhwi,bhwo->io", read, dy)[None, None]
    if stride > 1:
        dx = jnp.zeros_like(x).at[:, ::stride, ::stride].set(dx)
    return dx, d_kernel


def _input_gradient(stride: int, x: Array, kernel: Array, dy: Array) -> Array:
    """The convolution of dy, dilated by the stride, with the flipped kernel."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    padding = []
    for axis, (before, _) in enumerate(_padding(kernel)):
        length = kernel.shape[axis]
        dilated = (dy.shape[axis + 1] - 1) * stride + 1
        front = length - 1 - before
        padding.append((front, x.shape[axis + 1] + length - 1 - front - dilated))
    return lax.conv_general_dilated(
        dy, flipped, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=_ORDER
    )


def _kernel_gradient(stride: int, x: Array, kernel: Array, dy: Array) -> Array:
    """The convolution of x with dy, dilated by the stride, as kernel. It sums over examples."""
    images, window = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    padding = []
    for axis, (before, _) in enumerate(_padding(kernel)):
        dilated = (dy.shape[axis + 1] - 1) * stride + 1
        padding.append((before, kernel.shape[axis] - 1 + dilated - before - x.shape[axis + 1]))
    d_kernel = lax.conv_general_dilated(
        images, window, (1, 1), padding, rhs_dilation=(stride, stride), dimension_numbers=_ORDER
    )
    return d_kernel.transpose(1, 2, 0, 3)


conv.defvjp(_forward, _backward)


def _fastest_conv() -> Callable[[Array, Array, int], Array]:
    return conv if jax.default_backend() == "cpu" else plain_conv


class Conv(nn.Module):
    """A convolution without bias, padded by half of the kernel on both sides.

    Attributes:
      features: output channels.
      size: height and width of the kernel.
      stride: in both directions.
      dtype: compute dtype; None: that of input and kernel.
      param_dtype: dtype of the kernel.
    """

    features: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxI: Array) -> Array:
        shape = (self.size, self.size, x_BxHxWxI.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, self.param_dtype)
        x_BxHxWxI, kernel = nn.dtypes.promote_dtype(x_BxHxWxI, kernel, dtype=self.dtype)
        return _fastest_conv()(x_BxHxWxI, kernel, self.stride)
