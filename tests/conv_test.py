"""The convolution: the gradients of automatic differentiation, at full speed inside a loop."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax.models import conv as module
from ist_jax.models.conv import Conv, conv, plain_conv


@given(
    size=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    seed=st.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_its_gradients_are_those_of_automatic_differentiation(size, stride, height, width, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x, kernel = jax.random.normal(keys[0], (2, height, width, 3)), jax.random.normal(keys[1], (size, size, 3, 4))
    y, back = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
    expected, expected_back = jax.vjp(lambda x, kernel: plain_conv(x, kernel, stride), x, kernel)
    np.testing.assert_array_equal(y, expected)
    dy = jax.random.normal(keys[2], y.shape)
    for found, wanted in zip(back(dy), expected_back(dy)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def seconds(f, *args):
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere the plain convolution is used")
def test_a_loop_over_steps_is_not_slower_than_the_steps_alone():
    """The plain convolution is, about 40 times on the machine where this was written."""
    x, kernel = jnp.ones((16, 16, 16, 16)), jnp.full((3, 3, 16, 16), 0.01)

    def step(convolve, kernel):
        return kernel - 1e-6 * jax.grad(lambda kernel: (convolve(convolve(x, kernel, 1), kernel, 1) ** 2).mean())(kernel)

    looped = lambda convolve: jax.jit(lambda kernel: jax.lax.fori_loop(0, 4, lambda _, kernel: step(convolve, kernel), kernel))
    alone = seconds(jax.jit(functools.partial(step, conv)), kernel)
    assert seconds(looped(conv), kernel) / 4 < 4 * alone
    assert seconds(looped(plain_conv), kernel) / 4 > 4 * alone, "the plain one has become fast in loops: ours can go"


@pytest.mark.parametrize("platform,used", [("cpu", "conv"), ("gpu", "plain_conv"), ("tpu", "plain_conv")])
def test_the_module_uses_it_where_it_is_faster(monkeypatch, platform, used):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    seen = []
    for name in ("conv", "plain_conv"):
        monkeypatch.setattr(module, name, lambda x, kernel, stride, name=name: (seen.append(name), x)[1])
    Conv(4).init(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    assert seen == [used]
