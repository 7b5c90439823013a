"""Streaming DiLoCo: its limit cases, and the algorithm written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH, ROOT, SGD, TASK, dataset, params_of, placements, rounds, two_groups
from laws import assert_close

from ist_jax import Phase, diloco, streaming_diloco
from ist_jax.analysis import hlo
from ist_jax.core.keys import named_key
from ist_jax.core.sample_order import draw
from ist_jax.core.trees import map_with_names
from ist_jax.methods.streaming_diloco import balanced_fragments

SPLIT = two_groups(2)
OPTIONS = dict(num_workers=2, batch_size=BATCH)


def one_fragment_and_diloco():
    tx = optax.adamw(1e-2)
    streaming = streaming_diloco(SPLIT, TASK, tx, fragments=1, **OPTIONS)
    return streaming, diloco(SPLIT, TASK, tx, **OPTIONS)


def test_one_fragment_without_overlap_and_mixing_is_diloco_bit_for_bit():
    made = one_fragment_and_diloco()
    actual, expected = (params_of(method, rounds(method, 3)[0]) for method in made)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_workers_that_adopt_every_value_fully_need_no_copies():
    """To rounding: the programs differ."""
    streaming, plain = one_fragment_and_diloco()
    copying = dataclasses.replace(streaming, copied=streaming.info.turns[0].pushed)
    results = [params_of(method, rounds(method, 3)[0]) for method in (copying, plain)]
    assert_close(*results, rtol=1e-5, atol=2e-6)


def of_output(name):
    """The number of a parameter's fragment: 1 for the output layer, 0 for all others."""
    return int(name.startswith("output"))


def by_hand(view, count, steps, overlap, mixing, rate):
    """(mean of the workers' parameters, global parameters) after `count` rounds of SGD."""

    @jax.jit
    def step(params, worker, position):
        batch = TASK.batch(view.arrays, draw(view, worker, position, BATCH), None)
        gradient = jax.grad(lambda p: TASK.loss(SPLIT.full, p, batch, ROOT)[0])(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    def in_fragment(number, f, own, *others):
        """`f` of the leaves in a fragment; other leaves of `own` stay."""
        choose = lambda name, x, *y: f(x, *y) if of_output(name) == number else x
        return map_with_names(choose, own, *others)

    shared = jax.device_get(jax.jit(SPLIT.init)(named_key(ROOT, "init")))
    own = [shared, shared]
    for r in range(count):
        for j in range(steps):
            if j == overlap and r > 0:
                mix = lambda x, y: mixing * x + (1 - mixing) * y
                own = [in_fragment((r - 1) % 2, mix, each, shared) for each in own]
            position = jnp.int32((steps * r + j) * BATCH)
            own = [step(each, jnp.int32(worker), position) for worker, each in enumerate(own)]
            own = jax.device_get(own)
        outer = lambda old, a, b: old - rate * (old - (a + b) / 2)
        shared = in_fragment(r % 2, outer, shared, *own)
    return jax.tree.map(lambda a, b: (a + b) / 2, *own), shared


@pytest.mark.slow
def test_fragments_in_turn_with_overlap_and_mixing_by_hand():
    method = streaming_diloco(
        SPLIT,
        TASK,
        optax.sgd(0.1),
        fragments=of_output,
        overlap=1,
        mixing=0.25,
        outer_tx=optax.sgd(0.7),
        **OPTIONS,
    )
    state, _ = rounds(method, 4)
    view = next(dataset().views(jax.random.key(5), 2, method.sharding, [range(1)]))
    mean, shared = by_hand(view, 4, 3, 1, 0.25, 0.7)
    assert_close(params_of(method, state), mean, rtol=1e-4, atol=1e-5)
    assert_close(state.store.params, shared, rtol=1e-4, atol=1e-5)
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), mean, shared)
    assert min(jax.tree.leaves(gaps)) > 1e-3, "workers are elsewhere than the global parameters"


@pytest.mark.slow
def test_a_cycle_of_fragments_sends_the_bytes_of_one_synchronisation_of_diloco():
    options = dict(num_workers=4, batch_size=BATCH, placement=placements()["sharded-4"]())
    method = streaming_diloco(SPLIT, TASK, SGD, fragments=3, overlap=1, **options)
    view = next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)]))
    weight_S = jax.device_put(np.ones(4, np.float32), method.sharding)
    given = (method.fresh(ROOT), view, jax.device_put(ROOT, method.sharding), weight_S)
    programs = [method.round.lower(*given, steps=2, turn=turn).compile() for turn in range(3)]
    sent = [hlo.bytes_sent(program.as_text()) for program in programs]
    assert sent == [turn.costs.bytes_per_sync for turn in method.info.turns]
    assert sum(sent) == diloco(SPLIT, TASK, SGD, **options).costs.bytes_per_sync
    assert max(sent) < 0.7 * sum(sent)


def test_fragments_are_of_about_one_size_and_cover_the_parameters_once():
    sizes = dict(a=50, b=30, c=20, d=15, e=1)
    shapes = {name: jax.ShapeDtypeStruct((size,), jnp.float32) for name, size in sizes.items()}
    assert balanced_fragments(shapes, 2) == [{"a", "d"}, {"b", "c", "e"}]
    assert balanced_fragments(shapes, 5) == [{name} for name in "abcde"]


@pytest.mark.parametrize(
    "options,says",
    [
        (dict(fragments=0), "fragments=0 must be from 1 to"),
        (dict(fragments=99), "fragments=99 must be from 1 to"),
        (dict(fragments=lambda name: 2), r"numbered from 0 without gaps, not \[2\]"),
        (dict(overlap=-1), "overlap is at least 0 and mixing from 0 to 1, not -1 and 0"),
        (dict(mixing=1.5), "overlap is at least 0 and mixing from 0 to 1, not 0 and 1.5"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        streaming_diloco(SPLIT, TASK, SGD, **OPTIONS | options)


def test_an_overlap_beyond_a_round_is_refused_before_training():
    method = streaming_diloco(SPLIT, TASK, SGD, overlap=4, **OPTIONS)
    with pytest.raises(ValueError, match="overlap=4 must be at most the 3 local steps of a round"):
        Phase(method, 100, 3)
