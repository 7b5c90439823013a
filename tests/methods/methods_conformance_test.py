"""The laws of training, for every algorithm in `cases.ALGORITHMS`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    ALGORITHMS,
    BATCH,
    CLASSES,
    ROOT,
    SGD,
    TASK,
    Own,
    chain,
    dataset,
    own,
    placements,
    random_params,
    rounds,
    two_groups,
)
from laws import assert_close, plain_training

from ist_jax import data_parallel, decompose, ist, replicated
from ist_jax.core.keys import named_key
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.sample_order import Shards, draw
from ist_jax.data.base import strided_rows
from ist_jax.methods import Start
from ist_jax.models import linen
from ist_jax.training.evaluation import evaluate

by_algorithm = pytest.mark.parametrize("name", sorted(ALGORITHMS))


@by_algorithm
@pytest.mark.parametrize("place", ["vmapped", "sharded-2"])
def test_law_9_the_second_round_compiles_nothing_and_the_state_is_stable(name, place):
    algorithm = ALGORITHMS[name](4, placements()[place]())
    described = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), algorithm.fresh(ROOT))
    after, metrics = rounds(algorithm, 3)
    assert algorithm.round._cache_size() == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), after) == described
    assert metrics["loss_SxJ"].shape == (4, 3)


@by_algorithm
def test_law_9_init_works_on_shapes_alone(name):
    algorithm = ALGORITHMS[name](4)
    abstract = jax.eval_shape(algorithm.init, ROOT)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(
        lambda x: (x.shape, x.dtype), algorithm.fresh(ROOT)
    )


@by_algorithm
def test_it_learns_and_predicts_better_than_chance(name):
    algorithm, data = ALGORITHMS[name](4), dataset()
    state, _ = rounds(algorithm, 20, 5, data)
    options = dict(batch_size=16, subnets=True)
    splits, sample = {"test": data.test}, strided_rows(data.train, 64)
    result = jax.jit(lambda state: evaluate(algorithm, TASK, state, splits, sample, **options))(
        state
    )
    assert result["test"]["accuracy"] > 0.7
    assert result["test_subnets"]["accuracy"].shape == (4,)
    assert (result["test_subnets"]["accuracy"] > 1.5 / CLASSES).all(), (
        "every subnetwork is a classifier of its own"
    )


@by_algorithm
def test_law_7_exactly_the_configured_local_steps_reach_the_global_model(name):
    """With a rate that is zero from the fourth step on, five steps are three steps, and two are fewer."""
    stops = optax.sgd(lambda step: jnp.where(step < 3, 0.1, 0.0))
    algorithm = ALGORITHMS[name](2, None, stops)
    after = {steps: algorithm.params(rounds(algorithm, 1, steps)[0]) for steps in (2, 3, 5)}
    assert_close(after[5], after[3], rtol=1e-5, atol=1e-6)
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after[3], after[2])
    assert max(jax.tree.leaves(gap)) > 1e-4, (
        "the third step, the last of its round, has reached the model"
    )


@by_algorithm
def test_when_all_subnetworks_are_lost_the_parameters_stay(name):
    algorithm, data = ALGORITHMS[name](2), dataset()
    view = next(data.views(jax.random.key(5), 2, algorithm.sharding, [range(1)]))
    before = jax.device_get(algorithm.params(algorithm.fresh(ROOT)))
    state, _ = algorithm.round(algorithm.fresh(ROOT), view, ROOT, jnp.zeros(2), steps=2)
    jax.tree.map(np.testing.assert_array_equal, algorithm.params(state), before)


@by_algorithm
def test_what_a_lost_subnetwork_did_reaches_nobody(name):
    """One of two is lost, and its data are nan: the parameters stay finite and have still moved."""
    algorithm, data = ALGORITHMS[name](2), dataset()
    shards = Shards(jnp.arange(100), jnp.array([0, 50]), jnp.array([50, 50]))
    poisoned = {
        "x": jnp.asarray(data.train["x"]).at[50:].set(jnp.nan),
        "y": jnp.asarray(data.train["y"]),
    }
    view = next(data.views(jax.random.key(5), 2, algorithm.sharding, [range(1)]))._replace(
        shards=shards, arrays=poisoned
    )
    state, metrics = algorithm.round(
        algorithm.fresh(ROOT), view, ROOT, jnp.array([1.0, 0.0]), steps=2
    )
    assert (
        np.isfinite(metrics["loss_SxJ"][0]).all() and not np.isfinite(metrics["loss_SxJ"][1]).any()
    )
    before, after = algorithm.params(algorithm.fresh(ROOT)), jax.device_get(algorithm.params(state))
    healthy = next(data.views(jax.random.key(5), 2, algorithm.sharding, [range(1)]))
    later, _ = algorithm.round(state, healthy, jax.random.key(9), jnp.ones(2), steps=2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(algorithm.params(later))), (
        "nor later, when it is back"
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)))


@by_algorithm
def test_law_8_workers_start_from_one_initialisation_and_see_different_batches(name):
    algorithm, data = ALGORITHMS[name](4), dataset()
    view = next(data.views(jax.random.key(5), 4, algorithm.sharding, [range(1)]))
    batches = [np.asarray(draw(view, jnp.int32(s), jnp.int32(0), BATCH)).tolist() for s in range(4)]
    assert len({tuple(batch) for batch in batches}) == 4
    state = algorithm.fresh(ROOT)
    if not state.indices:  # every worker holds the whole model
        batch = {"x": jnp.asarray(data.test["x"]), "y": jnp.asarray(data.test["y"])}
        logits_SxBxC = algorithm.predictor(state, None, subnets=True)(batch)
        np.testing.assert_allclose(
            logits_SxBxC, jnp.broadcast_to(logits_SxBxC[:1], logits_SxBxC.shape), atol=1e-6
        )


@pytest.mark.parametrize("place", ["looped", "vmapped", "sharded-1"])
@pytest.mark.parametrize("make", [two_groups, own], ids=["mlp", "own-model"])
def test_law_4_one_subnetwork_is_plain_training(place, make):
    decomposition, data = make(1), dataset()
    algorithm = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=placements()[place]())
    state, _ = rounds(algorithm, 2, 3, data)
    expected = plain_training(
        decomposition, SGD, data, 2, 3, decomposition.init(named_key(ROOT, "init"))
    )
    compare = (
        np.testing.assert_array_equal
        if place != "vmapped"
        else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    )
    jax.tree.map(compare, algorithm.params(state), expected)


def test_law_4_empty_rules_are_local_sgd():
    """Local SGD written out: every worker trains a copy, the copies are averaged."""
    decomposition, data = replicated(two_groups(2), 2), dataset()
    algorithm = ist(decomposition, TASK, SGD, batch_size=BATCH)
    state, _ = rounds(algorithm, 2, 3, data)
    view = next(data.views(jax.random.key(5), 2, algorithm.sharding, [range(1)]))

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
    assert_close(algorithm.params(state), params)


def test_law_4_local_sgd_of_one_step_is_data_parallel():
    tx, whole = optax.sgd(0.1), replicated(two_groups(4), 4)
    local, _ = rounds(ist(whole, TASK, tx, batch_size=BATCH), 6, 1)
    parallel, _ = rounds(data_parallel(whole, TASK, tx, num_workers=4, batch_size=BATCH), 2, 3)
    assert_close(local.store[0], parallel.store)


@pytest.mark.parametrize("place", ["vmapped", "sharded-2"])
def test_law_4_an_outer_sgd_of_rate_one_is_the_plain_merge(place):
    make = lambda outer_tx: ist(
        two_groups(4),
        TASK,
        SGD,
        batch_size=BATCH,
        outer_tx=outer_tx,
        placement=placements()[place](),
    )
    plain, outer = make(None), make(optax.sgd(1.0))
    assert_close(
        plain.params(rounds(plain, 3)[0]), outer.params(rounds(outer, 3)[0]), rtol=1e-5, atol=1e-6
    )


def test_outer_momentum_by_hand():
    """Nesterov on two scalars' worth of rounds: v = mu v + g; x -= lr (g + mu v), g = params - merged."""
    whole = replicated(two_groups(2), 2)
    outer = ist(whole, TASK, SGD, batch_size=BATCH, outer_tx=optax.sgd(0.7, 0.9, nesterov=True))
    inner = ist(whole, TASK, SGD, batch_size=BATCH)
    start, one = inner.params(inner.fresh(ROOT)), inner.params(rounds(inner, 1)[0])
    # first round: v = g, so x1 = x0 - 0.7 (1 + 0.9) (x0 - merged)
    expected = jax.tree.map(lambda x0, merged: x0 - 0.7 * 1.9 * (x0 - merged), start, one)
    assert_close(outer.params(rounds(outer, 1)[0]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", ["looped", "sharded-4"])
def test_outer_momentum_goes_where_its_units_go(place):
    """One round trains; then the rate is 0, and momentum alone changes every parameter by 0.9 of what the first round did."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.0}))
    options = dict(
        batch_size=BATCH, outer_tx=optax.sgd(1.0, momentum=0.9), placement=placements()[place]()
    )
    algorithm, start = ist(own(4), TASK, tx, **options), Start(random_params(own(4)))
    assert algorithm.partition.holder_sharded, "units go from holder to holder"
    (first, held), (second, held_then) = (
        (algorithm.params(state), state.indices)
        for state in (rounds(algorithm, n, start=start)[0] for n in (1, 2))
    )
    assert any((held[group] != held_then[group]).any() for group in held)
    change = lambda new, old: jax.tree.map(lambda a, b: a - b, new, old)
    assert_close(
        change(second, first),
        jax.tree.map(lambda d: 0.9 * d, change(first, start.params)),
        rtol=1e-3,
        atol=1e-5,
    )
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(change(first, start.params))) > 1e-2


@pytest.mark.parametrize(
    "name",
    [
        "ist",
        "ist-own-model",
        "ist-chain",
        "ist-carry",
        "ist-outer",
        "local-sgd",
        "diloco",
        "ensemble",
        "data-parallel",
    ],
)
def test_law_5_all_placements_agree_in_float64(name):
    """looped == vmapped == sharded over 1, 2, 4, 8 devices: the partition exactly, parameters to 1e-9."""
    with jax.enable_x64(True):
        data = dataset()
        make = {"ist-own-model": own, "ist-chain": chain}.get(name, two_groups)
        params = jax.tree.map(jnp.asarray, random_params(make(8), dtype=np.float64))
        start = Start(params, None, jnp.zeros((), jnp.int32))
        results = {}
        everywhere = (
            placements()
            if name == "ist"
            else {n: placements()[n] for n in ("looped", "vmapped", "sharded-2", "sharded-8")}
        )
        for place, make in everywhere.items():
            algorithm = ALGORITHMS[name](8, make(), optax.sgd(0.05))
            state, _ = rounds(algorithm, 2, 2, data, jax.device_put(start, algorithm.sharding))
            results[place] = jax.device_get((algorithm.params(state), state.indices))
        expected, indices = results["looped"]
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(expected))
        for found, found_indices in results.values():
            jax.tree.map(np.testing.assert_array_equal, found_indices, indices)
            assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_learning_rate_schedule_runs_on_the_global_step_though_the_state_is_reset():
    """A drop to 0 in the middle of the second round stops training there."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {5: 0.0}))
    algorithm = ist(two_groups(2), TASK, tx, batch_size=BATCH)
    five, _ = rounds(ist(replicated(two_groups(2), 1), TASK, tx, batch_size=BATCH), 1, 5)
    six, _ = rounds(ist(replicated(two_groups(2), 1), TASK, tx, batch_size=BATCH), 2, 3)
    assert_close(five.store[0], six.store[0], rtol=1e-5, atol=1e-6)
    two, three = rounds(algorithm, 2)[0], rounds(algorithm, 3)[0]
    jax.tree.map(np.testing.assert_array_equal, algorithm.params(two), algorithm.params(three))


def test_carried_state_moves_with_its_units_and_counts_stay_integers():
    algorithm = ALGORITHMS["ist-carry"](4)
    state, _ = rounds(algorithm, 2, 3)
    adam = algorithm.end(state).opt_state[0]
    assert adam.count.dtype == jnp.int32 and int(adam.count) == 6
    first = algorithm.end(algorithm.fresh(ROOT)).opt_state[0].mu
    assert jax.tree.map(jnp.shape, adam.mu) == jax.tree.map(jnp.shape, first)
    # entries of hidden_1 that no subnetwork held in either round have no moments yet
    untrained = np.asarray(adam.mu["hidden_1"]["kernel"]) == 0
    assert 0.4 < untrained.mean() < 0.9


def test_carry_refuses_factored_state():
    with pytest.raises(ValueError, match="shaped like its parameter"):
        ist(
            two_groups(2),
            TASK,
            optax.adafactor(1e-2, min_dim_size_to_factor=4),
            batch_size=BATCH,
            opt_state="carry",
        )


def test_options_that_contradict_are_refused():
    make = lambda **options: ist(two_groups(2), TASK, SGD, batch_size=BATCH, **options)
    with pytest.raises(ValueError, match="opt_state is one of"):
        make(opt_state="keep")
    with pytest.raises(ValueError, match="its units move on"):
        make(opt_state="local")
    with pytest.raises(
        ValueError, match="a mesh exchanges equal blocks, and the partition 'uniform'"
    ):
        ist(own(2, "uniform"), TASK, SGD, batch_size=BATCH, placement=sharded(subnet_mesh(2)))
    with pytest.raises(ValueError, match="does not divide"):
        decompose([(".*", None)], {"g": 9}, num_subnets=2, full=None, subnet=None, example=None)
    with pytest.raises(ValueError, match="no multiple of 4 devices"):
        ist(two_groups(2), TASK, SGD, batch_size=BATCH, placement=sharded(subnet_mesh(4)))


def test_a_rule_that_matches_no_parameter_is_said():
    split = own(4)
    misspelt = split._replace(rules=(*split.rules, ("heed/bias", None)))
    with pytest.raises(ValueError, match="'heed/bias' matches none .nearest is 'head/bias'."):
        ist(misspelt, TASK, SGD, batch_size=BATCH)


def test_a_subnetwork_that_is_not_what_the_rules_give_is_said():
    wrong = own(4)._replace(subnet=linen(Own(5, 2)))
    says = r"head/kernel has shape \[5, 5\] in the subnetwork's model and \[4, 5\] by the rules"
    with pytest.raises(ValueError, match=says):
        ist(wrong, TASK, SGD, batch_size=BATCH)
