"""Rounded units: the rounding itself, the mesh against one device, the compiled bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    ROOT,
    TASK,
    custom,
    dataset,
    placements,
    random_params,
    replicas,
    rounds,
    two_groups,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import exchanged_rounds

from ist_jax import ist
from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.core.partition import partition
from ist_jax.core.placement import subnet_mesh
from ist_jax.core.subnet import label_axes
from ist_jax.exchange import CODECS, choose_holder_sharded, one_device, over_mesh
from ist_jax.exchange.codecs import codec_for
from ist_jax.methods import Start

REDUCED = ("bfloat16", "int8")


def coded(name, leaf, axis=1, key=None):
    codec = CODECS[name]
    return codec.decode(codec.encode(leaf, axis, key), leaf.dtype)


def steps(name, leaf):
    """For every entry, the distance between the codec's neighbouring values."""
    if name == "int8":
        return np.broadcast_to(np.abs(leaf).max(axis=0, keepdims=True) / 127, leaf.shape)
    return 2.0 ** (np.floor(np.log2(np.abs(leaf))) - 7)


@pytest.mark.parametrize("name", REDUCED)
def test_rounding_to_nearest_is_within_half_a_step_and_stochastic_rounding_is_unbiased(name):
    leaf = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * np.array(
        [1e-6, 1e-2, 1, 3, 1e8], np.float32
    )
    step = steps(name, leaf)
    assert (np.abs(coded(name, leaf) - leaf) <= 0.501 * step).all()
    drawn = jax.jit(jax.vmap(lambda key: coded(name, jnp.asarray(leaf), key=key)))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert (np.abs(drawn - leaf[None]) <= 1.001 * step).all()
    assert (
        np.abs(np.asarray(drawn, np.float64).mean(axis=0) - leaf)
        < 5 * step / np.sqrt(12 * 4000) * np.sqrt(3)
    ).all()


@pytest.mark.parametrize("name", REDUCED)
def test_rounding_a_rounded_leaf_again_changes_nothing(name):
    leaf = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32))
    once = coded(name, leaf)
    again = coded(name, once, key=jax.random.key(3))
    np.testing.assert_allclose(again, once, rtol=1e-6 if name == "int8" else 0, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=8))
def test_all_finite_numbers_stay_finite_and_zero_is_zero(values):
    leaf = jnp.asarray(values, jnp.float32)[:, None]
    for name in REDUCED:
        for key in (None, jax.random.key(0)):
            rounded = np.asarray(coded(name, leaf, key=key))
            largest = np.abs(leaf) > 3.38e38  # rounding up may pass the largest bfloat16
            assert np.isfinite(rounded[~largest]).all()
            assert (rounded[np.asarray(leaf) == 0] == 0).all()


@pytest.mark.parametrize("name", REDUCED)
def test_numbers_that_are_not_finite_stay_so(name):
    """Also NaN as some devices write it, all ones: adding to it would give -0.0."""
    for bits in (0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000):
        leaf = jnp.asarray(np.array([[bits]], np.uint32).view(np.float32))
        for key in (None, jax.random.key(0)):
            assert not np.isfinite(coded(name, leaf, key=key)).any(), hex(bits)


def session(exchange, params, num_subnets, parts):
    """Three rounds in which units change: (what is pulled, parameters at the end)."""
    seen = list(exchanged_rounds(exchange, parts, params, np.arange(num_subnets) != 1, 3, 1.5))
    indices, _, store = seen[-1]
    return [sub_S for _, sub_S, _ in seen[1:]], exchange.params(store, indices)


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("make", [two_groups, custom])
def test_the_mesh_rounds_as_one_device_does_and_near_the_exact_one(name, make):
    split = make(4)
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    labels = label_axes(shapes, split.rules, split.partition.sizes)
    parts, params = choose_holder_sharded(split.partition, labels, shapes), random_params(split)

    def run(exchange):
        return jax.device_get(
            jax.jit(functools.partial(session, exchange, num_subnets=4, parts=parts))(params)
        )

    here = run(one_device(labels, shapes, parts, compressions=name))
    # fused multiply-adds of a decoded scale
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    for num_devices in (2, 4):
        jax.tree.map(
            close,
            run(over_mesh(labels, shapes, parts, subnet_mesh(num_devices), compressions=name)),
            here,
        )
    near = functools.partial(
        np.testing.assert_allclose, rtol=0.03, atol=0.3 if name == "int8" else 1e-2
    )
    jax.tree.map(near, here, run(one_device(labels, shapes, parts)))


def test_home_sharded_units_keep_their_bits_though_they_are_sent_rounded():
    """As long as they are not trained."""
    split = two_groups(4)
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    labels = label_axes(shapes, split.rules, split.partition.sizes)
    parts, params = split.partition, random_params(split)
    exchange = one_device(labels, shapes, parts, compressions="int8")
    indices = parts.first()
    sub_S = exchange.pull(exchange.init(params), indices)
    sent = sub_S["output"]["kernel"].reshape(-1, 5)
    assert np.abs(sent - params["output"]["kernel"]).max() > 1e-4
    store = exchange.push(
        exchange.init(params), sub_S, sub_S, indices, jnp.ones(4), jax.random.key(0)
    )
    jax.tree.map(np.testing.assert_array_equal, store, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", *REDUCED])
def test_the_compiled_bytes_are_the_arithmetic_and_smaller(name):
    method = ist(
        two_groups(4),
        TASK,
        optax.adam(1e-2),
        batch_size=BATCH,
        placement=placements()["sharded-4"](),
        opt_state="carry",
        compression=name,
    )
    state, view = (
        method.fresh(jax.random.key(0)),
        next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)])),
    )
    key, weight_S = jax.device_put((jax.random.key(0), jnp.ones(4)), method.sharding)
    text = method.round.lower(state, view, key, weight_S, steps=2).compile().as_text()
    assert {c.kind for c in collectives(text)} == {"all-to-all"}
    assert bytes_sent(text) == method.costs.bytes_per_sync
    exact = sum(
        leaf.sent
        for leaf in ist(
            two_groups(4), TASK, optax.adam(1e-2), batch_size=BATCH, opt_state="carry"
        ).costs.leaves
    )
    # scales are a large part of small layers
    low, high = {"exact": (1, 1), "bfloat16": (0.5, 0.5), "int8": (5 / 12, 0.55)}[name]
    assert low <= method.costs.bytes_per_sync / exact <= high, (
        "of three copies, one is sent as int8 and two as bfloat16"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_training_with_a_rounded_exchange_learns_as_well(name):
    data = dataset()
    loss = {}
    for codec in ("exact", name):
        method = ist(two_groups(4), TASK, optax.sgd(0.1), batch_size=BATCH, compression=codec)
        _, metrics = rounds(method, 15, 5, data)
        loss[codec] = float(metrics["loss_SxJ"].mean())
    assert loss[name] < loss["exact"] + 0.1


@pytest.mark.parametrize(
    "split", [replicas(2), two_groups(1)], ids=["leaves-without-groups", "one-subnetwork"]
)
def test_averages_and_a_single_subnetwork_are_exact(split):
    """Local SGD has only leaves without a group, and a single subnetwork is sent nothing."""
    after = {}
    for codec in ("exact", "int8"):
        method = ist(split, TASK, optax.sgd(0.1), batch_size=BATCH, compression=codec)
        after[codec] = method.params(rounds(method, 2)[0])
    jax.tree.map(np.testing.assert_array_equal, after["int8"], after["exact"])


def test_leaves_that_would_grow_are_sent_exactly():
    scale = jax.ShapeDtypeStruct((16,), jnp.float32)
    kernel = jax.ShapeDtypeStruct((16, 5), jnp.float32)
    assert codec_for("int8", scale, 0, 4).name == "exact", "1 byte and a scale of 4 are more than 4"
    assert (
        codec_for("bfloat16", scale, 0, 4).name == "bfloat16"
        and codec_for("int8", kernel, 0, 4).name == "int8"
    )
    assert codec_for("int8", jax.ShapeDtypeStruct((16, 5), jnp.int32), 0, 4).name == "exact"
    assert codec_for("bfloat16", jax.ShapeDtypeStruct((16, 5), jnp.bfloat16), 0, 4).name == "exact"


@pytest.mark.slow
def test_carried_second_moments_of_adam_never_become_negative():
    """Gradients stop, and over a long round the moments shrink below the codec's step."""
    split = two_groups(4)
    tx = optax.adam(1e-3, b2=0.9)
    method = ist(split, TASK, tx, batch_size=BATCH, opt_state="carry", compression="bfloat16")
    params = random_params(split)
    state = jax.tree.map(lambda leaf: jnp.abs(jnp.asarray(leaf)), optax.adam(1e-3).init(params))
    start = Start(
        params, (state[0]._replace(nu=jax.tree.map(jnp.abs, params)), state[1]), jnp.int32(0)
    )
    still = {"x": jnp.zeros((100, 12)), "y": jnp.zeros(100, jnp.int32)}
    view = next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)]))._replace(
        arrays=still
    )
    state, _ = method.round(method.fresh(ROOT, start), view, ROOT, jnp.ones(4), steps=300)
    assert (
        min(float(leaf.min()) for leaf in jax.tree.leaves(method.end(state).opt_state[0].nu)) >= 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", *REDUCED])
def test_units_with_several_holders_over_a_mesh(name):
    split = custom(4)
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    labels = label_axes(shapes, split.rules, split.partition.sizes)
    parts, params = partition("blocks", split.partition.sizes, 4, min_units=5), random_params(split)

    def run(exchange):
        return jax.device_get(
            jax.jit(functools.partial(session, exchange, num_subnets=4, parts=parts))(params)
        )

    here = run(one_device(labels, shapes, parts, compressions=name))
    there = run(over_mesh(labels, shapes, parts, subnet_mesh(4), compressions=name))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), there, here)
