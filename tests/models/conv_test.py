"""The convolution: the gradients of automatic differentiation, at full speed inside a loop."""

import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import as_users_compile
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax import data
from ist_jax.cli.benchmarks import convolutions
from ist_jax.models import conv as module
from ist_jax.models.conv import Conv, conv, plain_conv


@pytest.mark.slow
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
    x, kernel = (
        jax.random.normal(keys[0], (2, height, width, 3)),
        jax.random.normal(keys[1], (size, size, 3, 4)),
    )
    y, back = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
    expected, expected_back = jax.vjp(lambda x, kernel: plain_conv(x, kernel, stride), x, kernel)
    np.testing.assert_array_equal(y, expected)
    dy = jax.random.normal(keys[2], y.shape)
    for gradient, expected in zip(back(dy), expected_back(dy)):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size,stride", [(3, 1), (3, 2), (1, 2)])
def test_its_gradients_in_bfloat16_are_those_in_float32_up_to_rounding(size, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = (
        jax.random.normal(keys[0], (2, 6, 6, 3)),
        jax.random.normal(keys[1], (size, size, 3, 4)),
    )
    y, back = jax.vjp(
        lambda x, kernel: conv(x, kernel, stride),
        x.astype(jnp.bfloat16),
        kernel.astype(jnp.bfloat16),
    )
    dy = jax.random.normal(keys[2], y.shape)
    wanted = jax.vjp(lambda x, kernel: plain_conv(x, kernel, stride), x, kernel)[1](dy)
    for gradient, expected in zip(back(dy.astype(jnp.bfloat16)), wanted):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=0.05, atol=0.1)


def step(convolve, kernel, stride):
    """A gradient step on the kernel of two convolutions, one after the other."""
    x = jnp.ones((16, 16, 16, 16))
    loss = lambda kernel: (convolve(convolve(x, kernel, stride), kernel, stride) ** 2).mean()
    return kernel - 1e-6 * jax.grad(loss)(kernel)


def looped(convolve, size=3, stride=1):
    """The compiled program of four steps, one after another, and its kernel."""
    kernel = jnp.full((size, size, 16, 16), 0.01)
    run = jax.jit(
        lambda kernel: jax.lax.fori_loop(
            0, 4, lambda _, kernel: step(convolve, kernel, stride), kernel
        )
    )
    return run.lower(kernel).compile(), kernel


def orders(convolve, stride):
    """Of the dimensions of every convolution in a loop over steps of 3 x 3 convolutions."""
    text = looped(convolve, stride=stride)[0].as_text()
    return [order.rstrip(",") for order in re.findall(r" convolution\(.*dim_labels=(\S+)", text)]


on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere the plain convolution is used"
)


@on_cpu
@pytest.mark.parametrize("stride", [1, 2])
def test_in_a_loop_all_convolutions_have_the_order_of_dimensions_that_is_fast(stride):
    """NHWC images and HWIO kernels: two convolutions forward, three in their gradients."""
    assert orders(conv, stride) == 5 * ["b01f_01io->b01f"]
    assert set(orders(plain_conv, stride)) != {"b01f_01io->b01f"}, "XLA now does it: ours can go"


@on_cpu
@pytest.mark.parametrize("size,stride", [(3, 1), (3, 2), (1, 2)])
def test_in_a_loop_it_is_faster_than_the_plain_one(size, stride):
    """They are timed in turns, so that other work slows both, and optimised as for users."""
    with as_users_compile():
        (ours, kernel), (plain, _) = looped(conv, size, stride), looped(plain_conv, size, stride)
    times = {ours: [], plain: []}
    for run in (ours, plain) * 4:
        began = time.perf_counter()
        jax.block_until_ready(run(kernel))
        times[run].append(time.perf_counter() - began)
    assert min(times[plain]) > 3 * min(times[ours]), (
        "the plain one has become fast in loops: ours can go"
    )


@pytest.mark.slow
def test_the_pages_tables_of_convolutions_and_placements_are_made(tmp_path, capsys):
    """A small layer and a small network, timed once."""
    images = data.load("digits", dataset="images")
    layer = convolutions.layer_row(convolutions.Layer(1, 2, 4, 2, 2), 1)
    network = convolutions.network_row(
        "small", convolutions.networks(images.example)[convolutions.CHANNELS], images, 1
    )
    for row in (layer, network):
        assert len(row) == 5 and all(float(value) >= 0 for value in row[1:])
    convolutions.show(["ms", "a"], [["x", "1"]], tmp_path / "out" / "rows.json")
    assert capsys.readouterr().out.startswith("| ms | a |\n| --- | ---: |\n| x | 1 |\n")
    assert json.loads((tmp_path / "out" / "rows.json").read_text())["rows"] == [["x", "1"]]


@pytest.mark.parametrize(
    "platform,used", [("cpu", "conv"), ("gpu", "plain_conv"), ("tpu", "plain_conv")]
)
def test_the_module_uses_it_on_a_cpu_only(monkeypatch, platform, used):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    seen = []
    for name in ("conv", "plain_conv"):
        monkeypatch.setattr(
            module, name, lambda x, kernel, stride, name=name: (seen.append(name), x)[1]
        )
    Conv(4).init(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    assert seen == [used]
