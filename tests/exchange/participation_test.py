"""Participation of subnetworks between 0 and 1, on one device and over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import also_slowly

from ist_jax.core.partition import partition
from ist_jax.core.placement import subnet_mesh
from ist_jax.core.subnet import Label, merge
from ist_jax.exchange import independent, one_device, over_mesh

LABELS = {
    "holder_sharded": Label((None, "u")),
    "home_sharded": Label(("v", None)),
    "two_groups": Label(("u", "v")),
    "shared": Label((None,)),
    "count": Label((), averaged=False),
}
SHAPES = {"holder_sharded": (3, 8), "home_sharded": (8, 3), "two_groups": (8, 8), "shared": (5,)}
WEIGHTS = {
    "all": [1.0, 1.0, 1.0, 1.0],
    "lost": [1.0, 0.0, 1.0, 1.0],
    "stale": [1.0, 0.0, 0.5, 0.25],
    "none": [0.0, 0.0, 0.0, 0.0],
}


def parameters():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return jax.tree.map(jnp.float32, params) | {"count": jnp.int32(0)}


def make(num_devices, parts, compression="exact"):
    if num_devices == 1:
        return one_device(LABELS, parameters(), parts, compressions=compression)
    mesh = subnet_mesh(num_devices)
    return over_mesh(LABELS, parameters(), parts, mesh, compressions=compression)


def pushed(exchange, parts, weight_S, change=1.0):
    """(trained subnetworks, parameters after the push); lost subnetworks trained NaN."""

    def trained(leaf, weight_S):
        lost_S = weight_S.reshape(-1, *[1] * (leaf.ndim - 1)) == 0
        new = leaf + jnp.asarray(change, leaf.dtype)
        return jnp.where(lost_S, jnp.nan, new) if leaf.dtype == jnp.float32 else new

    @jax.jit
    def run(params, weight_S):
        indices = parts.first()
        store = exchange.init(params)
        pulled_S = exchange.pull(store, indices)
        trained_S = jax.tree.map(lambda leaf: trained(leaf, weight_S), pulled_S)
        store = exchange.push(store, pulled_S, trained_S, indices, weight_S, jax.random.key(7))
        return trained_S, exchange.params(store, indices)

    return jax.device_get(run(parameters(), jnp.array(weight_S, jnp.float32)))


PARTITIONS = {
    "holder-sharded": lambda: partition("balanced", {"u": 8, "v": 8}, 4, holder_sharded=("u",)),
    "several-holders": lambda: partition("balanced", {"u": 8, "v": 8}, 4, min_units=4),
}


@pytest.mark.parametrize("num_devices", also_slowly([2], [1, 2]))
@pytest.mark.parametrize("parts", also_slowly(sorted(PARTITIONS)[:1], sorted(PARTITIONS)))
@pytest.mark.parametrize("weights", sorted(WEIGHTS))
def test_a_push_is_the_merge_of_weighted_contributions(num_devices, parts, weights):
    """NaN of a lost subnetwork reaches nobody."""
    parts, weight_S = PARTITIONS[parts](), np.array(WEIGHTS[weights], np.float32)
    trained_S, after = pushed(make(num_devices, parts), parts, weight_S)
    expected = merge(parameters(), trained_S, LABELS, parts.first(), weight_S)
    assert after.pop("count") == expected.pop("count") == 1
    for name in SHAPES:
        exact = weights != "stale" and (name != "shared" and parts.disjoint)
        compare = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        compare(after[name], expected[name], **({} if exact else {"rtol": 1e-6}))
    if weights == "none":
        jax.tree.map(np.testing.assert_array_equal, after, {n: parameters()[n] for n in SHAPES})


@pytest.mark.parametrize("num_devices", also_slowly([2], [1, 2]))
@pytest.mark.parametrize("compression", ["exact", "bfloat16", "int8"])
def test_half_a_participation_moves_entries_half_way(num_devices, compression):
    """The same key rounds in the same way, also where differences are sent."""
    parts = PARTITIONS["holder-sharded"]()
    exchange = make(num_devices, parts, compression)
    _, full = pushed(exchange, parts, np.ones(4))
    _, half = pushed(exchange, parts, np.full(4, 0.5))
    for name, old in parameters().items():
        if name != "count":
            np.testing.assert_allclose(half[name], (old + full[name]) / 2, rtol=1e-5, atol=1e-6)
            assert np.abs(full[name] - old).max() > 0.5


def test_independent_subnetworks_blend_what_they_trained_with_what_they_had():
    parts = partition("fixed", {"u": 8, "v": 8}, 4)
    exchange = independent(LABELS, parts)
    store, weight_S = exchange.init(parameters()), jnp.array([1.0, 0.0, 0.5, 1.0])
    old_S = exchange.pull(store, parts.first())["home_sharded"]
    trained_S = jax.tree.map(lambda leaf: leaf + 1, store.subnets_S)
    trained_S["home_sharded"] = trained_S["home_sharded"].at[1].set(jnp.nan)
    store = exchange.push(
        store, store.subnets_S, trained_S, parts.first(), weight_S, jax.random.key(0)
    )
    new_S = store.subnets_S["home_sharded"]
    np.testing.assert_array_equal(new_S[1], old_S[1])
    np.testing.assert_array_equal(new_S[0], trained_S["home_sharded"][0])
    np.testing.assert_allclose(new_S[2], old_S[2] + 0.5, rtol=1e-6)
