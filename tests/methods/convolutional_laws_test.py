"""Laws 4, 5 and 10 for blocks, filters and channels."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    CLASSES,
    DECOMPOSITIONS,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    chain,
    dataset,
    params_of,
    random_params,
    rounds,
)
from laws import assert_close, check_law_5, check_law_10, plain_training

from ist_jax import ist, replicated
from ist_jax.core.keys import named_key
from ist_jax.core.placement import looped, make_placement, sharded, subnet_mesh
from ist_jax.data import Raw, make_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import blocks, channels, filters
from ist_jax.methods.base import Start
from ist_jax.models import VGG, PreActResNet, ResNet
from ist_jax.training.loop import Phase

KINDS = ("blocks", "filters", "channels")
PLACES = {
    "looped": looped,
    "one on a device": lambda: sharded(subnet_mesh(4), looped()),
    "two on a device": lambda: sharded(subnet_mesh(2), looped()),
}


slow = pytest.mark.slow
DONE = collections.defaultdict(dict)  # case -> the results of law 5 so far
TWO = ("looped", "one on a device")
by_places = pytest.mark.parametrize(
    "places", [TWO, pytest.param(tuple(PLACES), marks=slow)], ids=["two", "all"]
)


@functools.cache
def images(count=60):
    """Random images of the shape that the cases take."""
    rng = np.random.default_rng(0)
    x, y = (
        rng.normal(size=(count + 20, 4, 4, 2)).astype(np.float32),
        np.arange(count + 20) % CLASSES,
    )
    raw = Raw(x[:count], y[:count], x[count:], y[count:])
    return make_dataset(raw, "images", source="images", validation_fraction=0.2, shards=shared)


@pytest.mark.slow
@by_places
@pytest.mark.parametrize("kind", KINDS)
def test_law_5_all_placements_agree_in_float64(kind, places):
    """The partition exactly, parameters to 1e-9. Every kind has a group that 4 does not divide."""
    with jax.enable_x64(True):
        decomposition, data = DECOMPOSITIONS[kind](4), images()
        params = jax.tree.map(jnp.asarray, random_params(decomposition, dtype=np.float64))
        start = Start(jax.tree.map(lambda leaf: 0.3 * leaf, params), None, jnp.zeros((), jnp.int32))

        def make(place):
            return ist(decomposition, TASK, optax.sgd(0.05), batch_size=4, placement=place)

        places = {name: PLACES[name] for name in places}
        check_law_5(make, places, data, start, rtol=1e-9, atol=1e-9, done=DONE[kind])


@pytest.mark.slow
@by_places
def test_law_5_for_momentum_that_moves_with_blocks_of_several_holders(places):
    """A minimum depth of 4 of 9 blocks: most have two holders.

    Their momentum is averaged as their parameters are.
    """
    with jax.enable_x64(True):
        decomposition = chain(4, min_units=4)
        start = Start(
            jax.tree.map(jnp.asarray, random_params(decomposition, dtype=np.float64)),
            None,
            jnp.zeros((), jnp.int32),
        )
        options = dict(batch_size=BATCH, opt_state="carry")
        make = lambda place: ist(decomposition, TASK, SGD, placement=place, **options)
        places = {name: PLACES[name] for name in places}
        check_law_5(make, places, dataset(), start, rtol=1e-9, atol=1e-9, done=DONE["momentum"])


IMAGE = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
WHOLE = {
    "blocks": lambda: blocks(
        PreActResNet((1, 3), CLASSES, width=4), IMAGE, num_subnets=1, stages=(2,)
    ),
    "filters": lambda: filters(ResNet((2,), CLASSES, width=4), IMAGE, num_subnets=1),
    "channels": lambda: channels(VGG((4, 0, 4), (4,), CLASSES), IMAGE, num_subnets=1),
}


@pytest.mark.parametrize(
    "kind,place", also_slowly([("filters", "looped")], itertools.product(KINDS, TWO))
)
def test_law_4_one_subnetwork_is_plain_training(kind, place):
    """Bit for bit; for blocks to rounding, since their loop over blocks is compiled otherwise."""
    decomposition, data = WHOLE[kind](), images()
    placement = looped() if place == "looped" else sharded(subnet_mesh(1))
    method = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=placement)
    state, _ = rounds(method, 2, 2, data)
    expected = plain_training(
        decomposition, SGD, data, 2, 2, decomposition.init(named_key(ROOT, "init"))
    )
    if kind == "blocks":
        assert_close(params_of(method, state), expected, rtol=1e-5, atol=2e-6)
    else:
        jax.tree.map(np.testing.assert_array_equal, params_of(method, state), expected)


@pytest.mark.slow
def test_a_network_trains_in_bfloat16_and_keeps_its_parameters_in_float32():
    decomposition = blocks(
        PreActResNet((1, 4), CLASSES, width=4, dtype=jnp.bfloat16),
        IMAGE,
        num_subnets=2,
        stages=(2,),
    )
    method = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=looped())
    state, metrics = rounds(method, 2, 2, images())
    params = params_of(method, state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"} and np.isfinite(
        metrics["loss_SxJ"]
    ).all()
    start = decomposition.init(named_key(ROOT, "init"))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, start)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_law_10_a_run_resumes_exactly_where_it_stopped(kind, tmp_path):
    """Stopped in local SGD's warm-up and again in the second phase; momentum is carried."""
    decomposition, data = DECOMPOSITIONS[kind](4), images()
    place = sharded(subnet_mesh(4), looped())

    def phases():
        warmup = ist(
            replicated(decomposition, 4),
            TASK,
            SGD,
            batch_size=4,
            opt_state="carry",
            placement=place,
        )
        trained = ist(decomposition, TASK, SGD, batch_size=4, opt_state="carry", placement=place)
        return [Phase(warmup, 2 * 2 * 16, 2), Phase(trained, 3 * 2 * 16, 2)]

    check_law_10(phases, TASK, data, tmp_path, [1, 2])


def test_on_an_accelerator_convolutions_with_per_worker_kernels_are_not_batched(monkeypatch):
    """On one device, and in a shard that holds several subnetworks."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def names(batched):
        return [make_placement("auto", s, d, batched=batched).name for s, d in ((4, 1), (16, 8))]

    one_by_one, at_once = ["looped", "sharded(looped)"], ["vmapped", "sharded(vmapped)"]
    assert names("never") == one_by_one and names("accelerator") == names("always") == at_once
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert names("never") == names("accelerator") == one_by_one and names("always") == at_once
    with pytest.raises(ValueError, match="batched is one of"):
        names(True)
