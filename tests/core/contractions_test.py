"""Which axes of parameters a function sums over."""

import jax
import jax.numpy as jnp
import pytest

from ist_jax.core.contractions import Axis, contractions

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
SUMMED, KEPT = {Axis(0, 0)}, {Axis(0, 1)}


def scanned(w, x):
    return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, w)[0]


def branching(w, x):
    return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: jnp.zeros((2, 4)), x)


@pytest.mark.parametrize(
    "shape,function,contracted,kept",
    [
        ((3, 4), lambda w, x: x @ w, SUMMED, KEPT),
        ((4, 3), lambda w, x: x @ w.T, {Axis(0, 1)}, {Axis(0, 0)}),
        ((3, 4), lambda w, x: x @ (0.5 * w).astype(jnp.bfloat16), SUMMED, KEPT),
        ((3, 4), jax.jit(lambda w, x: x @ w), SUMMED, KEPT),
        ((3, 4), jax.checkpoint(lambda w, x: x @ w), SUMMED, KEPT),
        ((3, 4), branching, SUMMED, KEPT),
        ((5, 3, 3), scanned, {Axis(0, 1)}, {Axis(0, 0), Axis(0, 2)}),
        ((3, 2, 2), lambda w, x: x @ w.reshape(3, 4), SUMMED, {Axis(0, 1), Axis(0, 2)}),
        ((3, 2, 4), lambda w, x: jnp.tile(x, 2) @ w.reshape(6, 4), {Axis(0, 0), Axis(0, 1)},
         {Axis(0, 2)}),
        ((3,), lambda w, x: x * w[None], set(), SUMMED),
        ((3,), lambda w, x: (x * w[None]) @ jnp.ones((3, 2)), set(), SUMMED),
        ((3, 3), lambda w, x: (x @ w) @ w.T, {Axis(0, 0), Axis(0, 1)}, {Axis(0, 0), Axis(0, 1)}),
    ],
)  # fmt: skip
def test_the_axes_that_products_sum_over_are_found(shape, function, contracted, kept):
    uses = contractions(function, jax.ShapeDtypeStruct(shape, jnp.float32), X)
    assert uses.contracted == contracted
    assert uses.kept == kept


def test_a_convolution_sums_over_its_input_channels():
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 5), jnp.float32)
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    convolve = lambda w, x: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert contractions(convolve, kernel, image).contracted == {Axis(0, 2)}
