"""Rounds that do not push all parameters: copies of workers, cycles of rounds, and their bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    NESTEROV,
    ROOT,
    SGD,
    TASK,
    dataset,
    one_round,
    params_of,
    placements,
    replicas,
    rounds,
    two_groups,
)
from custom_models import CLASSES, EXAMPLE
from laws import assert_close

from ist_jax import LoopConfig, ist, run
from ist_jax.analysis import hlo
from ist_jax.core.trees import leaf_names
from ist_jax.decompositions import mlp
from ist_jax.methods.ist import fields_of
from ist_jax.methods.outer import parts_of
from ist_jax.models import MLP
from ist_jax.training.loop import Stopped


def one_layer(num_subnets):
    """Its last bias has no group, and a gradient, since no norm follows."""
    model = MLP((32,), CLASSES, norm="none", bias=True)
    return mlp(model, EXAMPLE, num_subnets=num_subnets)


@functools.cache
def every_other(place="vmapped"):
    """IST whose only parameter without a group, the bias of the output, is averaged in turns."""
    placement = placements()[place]()
    return ist(one_layer(4), TASK, SGD, batch_size=BATCH, average_every=2, placement=placement)


def one_of(method, state, weights, number):
    view = next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)]))
    key = jax.random.fold_in(ROOT, number)
    return one_round(method, state, view, key, weights, turn=method.turn(number))[0]


def copies(state):
    (bias_SxC,) = jax.tree.leaves(jax.device_get(state.copies_S))
    return bias_SxC


@pytest.mark.slow
def test_full_models_averaged_every_other_round_are_full_models_averaged_after_twice_the_steps():
    """DiLoCo with rounds of 2 steps of which every other one averages, and with rounds of 4."""
    options = dict(batch_size=BATCH, opt_state="local", outer_tx=NESTEROV)
    short = ist(replicas(4), TASK, SGD, average_every=2, **options)
    long = ist(replicas(4), TASK, SGD, **options)
    results = [
        params_of(method, rounds(method, count, steps)[0])
        for method, count, steps in ((short, 4, 2), (long, 2, 4))
    ]
    assert_close(*results, rtol=1e-5, atol=2e-6)


def test_what_every_round_pushes_has_no_copies_and_one_program():
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH, average_every=1)
    assert method.copied == frozenset() and method.programs == [0]
    assert not jax.tree.leaves(jax.eval_shape(method.init, ROOT).copies_S)


def test_rounds_of_a_cycle_that_push_the_same_share_a_program():
    method = ist(one_layer(4), TASK, SGD, batch_size=BATCH, average_every=3)
    assert [method.turn(number) for number in range(7)] == [0, 0, 2, 0, 0, 2, 0]
    assert method.programs == [0, 2]
    pushed = [turn.pushed for turn in method.info.turns]
    assert pushed[2] - pushed[0] == {"output/bias"} and pushed[0] == pushed[1] < pushed[2]


def test_workers_keep_their_copies_until_they_are_averaged():
    method, everyone = every_other(), np.ones(4)
    first = one_of(method, method.fresh(ROOT), everyone, 0)
    apart_SxC = copies(first)
    assert np.ptp(apart_SxC, axis=0).max() > 1e-3, "each trained its own"
    assert len(np.unique(apart_SxC, axis=0)) == 4
    params = params_of(method, first)
    np.testing.assert_allclose(params["output"]["bias"], apart_SxC.mean(0), rtol=1e-6)
    together_SxC = copies(one_of(method, first, everyone, 1))
    np.testing.assert_array_equal(together_SxC, together_SxC[[0] * 4])
    assert np.abs(together_SxC - apart_SxC).max() > 1e-3


def test_a_failed_worker_keeps_its_copy_and_takes_the_average_of_the_others():
    method, others = every_other(), np.array([1.0, 0.0, 1.0, 1.0])
    first = one_of(method, method.fresh(ROOT), np.ones(4), 0)
    before_SxC = copies(first)
    kept_SxC = copies(one_of(method, jax.tree.map(jnp.copy, first), others, 0))
    is_kept = (kept_SxC == before_SxC).all(axis=1)
    np.testing.assert_array_equal(is_kept, [False, True, False, False])
    averaged_SxC = copies(one_of(method, jax.tree.map(jnp.copy, first), others, 1))
    np.testing.assert_array_equal(averaged_SxC, averaged_SxC[[0] * 4])
    np.testing.assert_array_equal(copies(one_of(method, first, np.zeros(4), 1)), before_SxC)


def test_every_round_of_a_cycle_sends_its_bytes_by_arithmetic():
    """The compiled programs for 4 devices; a count of workers is a scalar more."""
    method = every_other("sharded-4")
    state, weight_S = method.fresh(ROOT), jax.device_put(np.ones(4, np.float32), method.sharding)
    view = next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)]))
    given = (state, view, jax.device_put(ROOT, method.sharding), weight_S)
    sent = [
        hlo.bytes_sent(method.round.lower(*given, steps=3, turn=turn).compile().as_text())
        for turn in method.programs
    ]
    turns = [method.info.turns[turn].costs for turn in method.programs]
    assert sent == [costs.bytes_per_sync for costs in turns]
    (bias,) = (leaf for leaf in turns[1].leaves if leaf.name == "output/bias")
    assert sent[1] - sent[0] == bias.sent > 0
    assert method.costs.bytes_per_sync == sum(sent) / 2
    assert [costs.messages_per_sync for costs in turns] == [1, 1 + 2 * 3]


@pytest.mark.slow
def test_law_10_a_run_stopped_within_a_cycle_resumes_bit_for_bit(tmp_path):
    phases = [(every_other(), 5 * 3 * 4 * BATCH, 3)]
    config = LoopConfig(eval_every=0, checkpoint_every=1)
    unbroken = run(phases, TASK, dataset(), config)
    stops = iter([False, False, True])
    with pytest.raises(Stopped):
        run(phases, TASK, dataset(), config, tmp_path / "run", stop=lambda: next(stops))
    resumed = run(phases, TASK, dataset(), config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, unbroken.state)
    small, large = (turn.costs.bytes_per_sync for turn in every_other().info.turns)
    for results in (resumed, unbroken):
        assert results.summary["bytes_per_device"] == pytest.approx(3 * small + 2 * large)


def test_parameters_that_are_always_pushed_together_share_an_outer_state():
    sets = [frozenset("ab"), frozenset("abc"), frozenset("abd")]
    assert set(parts_of(sets)) == {frozenset("ab"), frozenset("c"), frozenset("d")}


@pytest.mark.slow
def test_an_outer_optimizer_leaves_alone_what_the_round_does_not_push():
    method = ist(one_layer(4), TASK, SGD, batch_size=BATCH, outer_tx=NESTEROV, average_every=2)
    state = one_of(method, method.fresh(ROOT), np.ones(4), 0)
    by_part = [
        sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(part))
        for part in state.outer_state
    ]
    assert sorted(momentum > 0 for momentum in by_part) == [False, True]


@pytest.mark.parametrize("left_out", ["hidden_0/kernel", "output/bias"])
def test_a_cycle_that_leaves_out_a_parameter_is_refused(left_out):
    make_cycle = lambda labels, shapes: [frozenset(leaf_names(shapes.params)) - {left_out}]
    with pytest.raises(ValueError, match=f"this cycle leaves out '{left_out}'"):
        fields_of(make_cycle, one_layer(4), TASK, SGD, batch_size=BATCH)


def test_averaging_seldom_is_refused_where_nothing_is_averaged():
    with pytest.raises(ValueError, match="every parameter has a group: use 1"):
        ist(two_groups(4), TASK, SGD, batch_size=BATCH, average_every=2)
    with pytest.raises(ValueError, match="average_every, a number of rounds, is at least 1, not 0"):
        ist(one_layer(4), TASK, optax.sgd(0.1), batch_size=BATCH, average_every=0)
