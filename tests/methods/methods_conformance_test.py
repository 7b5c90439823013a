"""The laws of training, for every method in `cases.METHODS`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    CLASSES,
    METHODS,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    chain,
    custom,
    dataset,
    nnx_custom,
    one_round,
    params_of,
    placements,
    random_params,
    recurrent,
    rounds,
    two_groups,
)
from laws import assert_close, check_law_7, plain_training

from ist_jax import data_parallel, ist, replicated
from ist_jax.core.keys import named_key
from ist_jax.core.sample_order import Shards, draw
from ist_jax.data.base import strided_rows
from ist_jax.methods import Start
from ist_jax.training.evaluation import evaluate

by_method = pytest.mark.parametrize("name", sorted(METHODS))
# what is compiled for this test alone: some methods, the others slowly
FEW = ("ist-carry", "data-parallel", "ensemble")
by_few_methods = pytest.mark.parametrize("name", also_slowly(FEW, sorted(METHODS)))


@pytest.fixture(scope="module")
def built():
    """(name, place) -> a case with S = 4, built once: tests share its round of 3 steps."""
    return functools.cache(lambda name, place="vmapped": METHODS[name](4, placements()[place]()))


@by_few_methods
@pytest.mark.parametrize("place", also_slowly(["vmapped"], ["vmapped", "sharded-2"]))
def test_law_9_the_second_round_compiles_nothing_and_the_state_is_stable(name, place):
    method = METHODS[name](4, placements()[place]())
    described = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), method.fresh(ROOT))
    after, metrics = rounds(method, 3)
    assert method.round._cache_size() == len(method.programs), "one for each round of a cycle"
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), after) == described
    assert metrics["loss_SxJ"].shape == (4, 3)


@by_method
def test_law_9_init_works_on_shapes_alone(name, built):
    method = built(name)
    abstract = jax.eval_shape(method.init, ROOT)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(
        lambda x: (x.shape, x.dtype), method.fresh(ROOT)
    )


@by_few_methods
def test_it_learns_and_predicts_better_than_chance(name, built):
    method, data = built(name), dataset()
    state, _ = rounds(method, 33, 3, data)
    options = dict(batch_size=16, subnets=True)
    splits, sample = {"test": data.test}, strided_rows(data.train, 64)
    result = jax.jit(lambda state: evaluate(method, TASK, state, splits, sample, **options))(state)
    assert result["test"]["accuracy"] > 0.7
    assert result["test_subnets"]["accuracy"].shape == (4,)
    assert (result["test_subnets"]["accuracy"] > 1.5 / CLASSES).all(), (
        "every subnetwork is a separate classifier"
    )


@by_few_methods
def test_law_7_exactly_the_configured_local_steps_reach_the_global_model(name):
    check_law_7(functools.partial(METHODS[name], 2, None), dataset(), 3)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 5])
def test_law_7_for_other_numbers_of_steps(steps):
    check_law_7(functools.partial(METHODS["ist"], 2, None), dataset(), steps)


@by_few_methods
def test_when_all_subnetworks_are_lost_the_parameters_stay(name, built):
    method, data = built(name), dataset()
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    before = params_of(method, method.fresh(ROOT))
    state, _ = one_round(method, method.fresh(ROOT), view, ROOT, np.zeros(4))
    jax.tree.map(np.testing.assert_array_equal, params_of(method, state), before)


@by_few_methods
def test_what_a_lost_subnetwork_did_reaches_nobody(name, built):
    """One of four is lost, and its data are nan: the parameters stay finite and still move."""
    method, data = built(name), dataset()
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    poisoned = view._replace(
        shards=jax.device_put(
            Shards(jnp.arange(100), 25 * jnp.arange(4), jnp.full(4, 25)), method.sharding
        ),
        arrays=view.arrays | {"x": view.arrays["x"].at[75:].set(jnp.nan)},
    )
    weight_S = np.array([1.0, 1.0, 1.0, 0.0])
    state, metrics = one_round(method, method.fresh(ROOT), poisoned, ROOT, weight_S)
    assert np.isfinite(metrics["loss_SxJ"][:3]).all()
    assert not np.isfinite(metrics["loss_SxJ"][3]).any()
    before, after = (params_of(method, s) for s in (method.fresh(ROOT), state))
    healthy = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    later, _ = one_round(method, state, healthy, jax.random.key(9), np.ones(4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_of(method, later))), (
        "nor later, when it is back"
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)))


@by_few_methods
def test_law_8_workers_start_from_one_initialisation_and_see_different_batches(name, built):
    method, data = built(name), dataset()
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    batches = [np.asarray(draw(view, jnp.int32(s), jnp.int32(0), BATCH)).tolist() for s in range(4)]
    assert len({tuple(batch) for batch in batches}) == 4
    state = method.fresh(ROOT)
    if not state.indices:  # every worker holds the full model
        batch = {"x": jnp.asarray(data.test["x"]), "y": jnp.asarray(data.test["y"])}
        logits_SxBxC = jax.jit(lambda state: method.predictor(state, None, subnets=True)(batch))(
            state
        )
        np.testing.assert_allclose(
            logits_SxBxC, jnp.broadcast_to(logits_SxBxC[:1], logits_SxBxC.shape), atol=1e-6
        )


@pytest.mark.parametrize("place", also_slowly(["vmapped"], ["looped", "vmapped", "sharded-1"]))
@pytest.mark.parametrize("make", also_slowly([two_groups], [two_groups, custom]))
def test_law_4_one_subnetwork_is_plain_training(place, make):
    decomposition, data = make(1), dataset()
    placement = placements()[place]()
    method = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=placement)
    state, _ = rounds(method, 2, 3, data)
    expected = plain_training(
        decomposition, SGD, data, 2, 3, decomposition.init(named_key(ROOT, "init"))
    )
    compare = (
        np.testing.assert_array_equal
        if place != "vmapped"
        else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    )
    jax.tree.map(compare, params_of(method, state), expected)


def test_law_4_empty_rules_are_local_sgd():
    """Local SGD written out: every worker trains a copy, the copies are averaged."""
    decomposition, data = replicated(two_groups(2), 2), dataset()
    method = ist(decomposition, TASK, SGD, batch_size=BATCH)
    state, _ = rounds(method, 2, 3, data)
    view = next(data.views(jax.random.key(5), 2, method.sharding, [range(1)]))

    @jax.jit
    def step(params, opt_state, worker, position):
        batch = TASK.batch(view.arrays, draw(view, worker, position, BATCH), None)
        gradient = jax.grad(lambda p: TASK.loss(decomposition.full, p, batch, ROOT)[0])(params)
        updates, opt_state = SGD.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = decomposition.init(named_key(ROOT, "init"))
    for r in range(2):
        copies = []
        for worker in range(2):
            copy, opt_state = params, SGD.init(params)
            for j in range(3):
                copy, opt_state = step(
                    copy, opt_state, jnp.int32(worker), jnp.int32((3 * r + j) * BATCH)
                )
            copies.append(copy)
        params = jax.tree.map(lambda a, b: (a + b) / 2, *copies)
    assert_close(params_of(method, state), params)


def test_law_4_local_sgd_of_one_step_is_data_parallel():
    tx, full_models = optax.sgd(0.1), replicated(two_groups(4), 4)
    local, _ = rounds(ist(full_models, TASK, tx, batch_size=BATCH), 6, 1)
    parallel, _ = rounds(
        data_parallel(full_models, TASK, tx, num_workers=4, batch_size=BATCH), 2, 3
    )
    assert_close(local.store[0], parallel.store)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["vmapped", "sharded-2"])
def test_law_4_an_outer_sgd_of_rate_one_is_the_plain_merge(place):
    def make(outer_tx):
        return ist(
            two_groups(4),
            TASK,
            SGD,
            batch_size=BATCH,
            outer_tx=outer_tx,
            placement=placements()[place](),
        )

    plain, outer = make(None), make(optax.sgd(1.0))
    assert_close(
        params_of(plain, rounds(plain, 3)[0]),
        params_of(outer, rounds(outer, 3)[0]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_outer_momentum_by_hand():
    """Nesterov: v = mu v + g; x -= lr (g + mu v), where g = params - merged."""
    full_models = replicated(two_groups(2), 2)
    outer = ist(
        full_models, TASK, SGD, batch_size=BATCH, outer_tx=optax.sgd(0.7, 0.9, nesterov=True)
    )
    inner = ist(full_models, TASK, SGD, batch_size=BATCH)
    start, one = params_of(inner, inner.fresh(ROOT)), params_of(inner, rounds(inner, 1)[0])
    # first round: v = g, so x1 = x0 - 0.7 (1 + 0.9) (x0 - merged)
    expected = jax.tree.map(lambda x0, merged: x0 - 0.7 * 1.9 * (x0 - merged), start, one)
    assert_close(params_of(outer, rounds(outer, 1)[0]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", also_slowly(["sharded-4"], ["looped", "sharded-4"]))
def test_outer_momentum_moves_with_its_units(place):
    """One round trains; then the rate is 0.

    Momentum alone changes every parameter by 0.9 of what the first round did.
    """
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.0}))
    options = dict(
        batch_size=BATCH, outer_tx=optax.sgd(1.0, momentum=0.9), placement=placements()[place]()
    )
    method, start = ist(custom(4), TASK, tx, **options), Start(random_params(custom(4)))
    assert method.partition.holder_sharded, "units go from holder to holder"
    (first, held), (second, held_then) = (
        (params_of(method, state), state.indices)
        for state in (rounds(method, n, start=start)[0] for n in (1, 2))
    )
    assert any((held[group] != held_then[group]).any() for group in held)

    def change(new, old):
        return jax.tree.map(lambda a, b: a - b, new, old)

    assert_close(
        change(second, first),
        jax.tree.map(lambda d: 0.9 * d, change(first, start.params)),
        rtol=1e-3,
        atol=1e-5,
    )
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(change(first, start.params))) > 1e-2


EVERYWHERE = tuple(placements())


def _placed(name, place):
    """(parameters and partition) after two rounds in float64."""
    params = jax.tree.map(
        jnp.asarray, random_params(FULL.get(name, two_groups)(8), dtype=np.float64)
    )
    method = METHODS[name](8, placements()[place](), optax.sgd(0.05))
    start = jax.device_put(Start(params, None, jnp.zeros((), jnp.int32)), method.sharding)
    state, _ = rounds(method, 2, 2, dataset(), start)
    return params_of(method, state), jax.device_get(state.indices)


@pytest.fixture(scope="module")
def placed():
    return functools.cache(_placed)


FAST_PLACED = [("ist", "vmapped"), ("ist", "sharded-4"), ("data-parallel", "sharded-2")]
FULL = {"ist-custom": custom, "ist-chain": chain, "ist-copies": custom}
FULL |= {"ist-nnx": nnx_custom, "ist-recurrent": recurrent}
PLACED = [
    *(("ist", place) for place in EVERYWHERE if place != "looped"),
    *((name, "sharded-2") for name in sorted({*METHODS} - {"ist"})),
]


@pytest.mark.parametrize(
    "name,place",
    also_slowly([case for case in PLACED if case in FAST_PLACED], PLACED),
)
def test_law_5_all_placements_agree_in_float64(name, place, placed):
    """Each is as looped: the partition exactly, parameters to 1e-9."""
    with jax.enable_x64(True):
        (expected, indices), (params, other) = placed(name, "looped"), placed(name, place)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(expected))
    jax.tree.map(np.testing.assert_array_equal, other, indices)
    assert_close(params, expected, rtol=1e-9, atol=1e-9)
