"""SparseLoCo: its limit case, the algorithm written out, and what its programs send."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    dataset,
    params_of,
    placements,
    rounds,
    two_groups,
)
from laws import assert_close

from ist_jax import diloco, sparse_loco
from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.exchange.sparse import sparse_codec

SPLIT = two_groups(2)
OPTIONS = dict(num_workers=2, batch_size=BATCH)


def test_everything_sent_exactly_is_diloco_without_momentum():
    """To rounding: the mean of differences is taken in place of the difference of means."""
    outer = dict(outer_tx=optax.sgd(0.7))
    dense = diloco(SPLIT, TASK, SGD, **OPTIONS, **outer)
    options = dict(density=1.0, chunk=50, values="exact", feedback=0.95)
    sparse = sparse_loco(SPLIT, TASK, SGD, **options, **OPTIONS, **outer)
    results = []
    for method in (dense, sparse):
        state, _ = rounds(method, 3)
        results.append(params_of(method, state))
    assert_close(*results, rtol=1e-5, atol=2e-6)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(state.store.error_S))


def largest(values, chunk, kept):
    """`values` with the `kept` largest entries of each chunk; all others are 0."""
    flat, sent = values.reshape(-1), np.zeros(values.size, values.dtype)
    for start in range(0, flat.size, chunk):
        part = flat[start : start + chunk]
        order = np.argsort(-np.abs(part))[:kept]
        sent[start + order] = part[order]
    return sent.reshape(values.shape)


@pytest.mark.parametrize("place", also_slowly(["sharded-2"], ["vmapped", "sharded-2"]))
def test_the_largest_entries_are_sent_and_the_others_stay_in_the_buffers(place):
    """Three pushes of random parameters. Worker 0 fails in the second, with nan.

    Half of what it sends is merged in the third, and the other half stays in its buffer.
    """
    method = sparse_loco(
        SPLIT,
        TASK,
        SGD,
        density=0.1,
        chunk=50,
        values="exact",
        feedback=0.5,
        placement=placements()[place](),
        **OPTIONS,
    )
    store, rng = method.fresh(ROOT).store, np.random.default_rng(0)
    push = jax.jit(method.exchange.push)
    old = [np.asarray(leaf) for leaf in jax.tree.leaves(store.params)]
    error = [np.zeros((2, *leaf.shape), np.float32) for leaf in old]
    for weights in ((1.0, 1.0), (0.0, 1.0), (0.5, 1.0)):
        pulled_S = method.exchange.pull(store, {})
        change = [rng.normal(size=(2, *leaf.shape)).astype(np.float32) for leaf in old]
        if weights[0] == 0:
            for leaf in change:
                leaf[0] = np.nan
        treedef = jax.tree.structure(pulled_S)
        trained_S = jax.tree.map(jnp.subtract, pulled_S, treedef.unflatten(change))
        store = push(store, pulled_S, trained_S, {}, jnp.array(weights), ROOT)
        for at, leaf in enumerate(old):
            wanted = 0.5 * error[at] + change[at]
            chunk = min(50, leaf.size)
            sent = np.stack([largest(each, chunk, -(-chunk // 10)) for each in wanted])
            takes_part = np.array(weights) > 0
            merged = np.stack([weight * each for weight, each in zip(weights, sent)])
            error[at][takes_part] = (wanted - merged)[takes_part]
            old[at] = leaf - merged[takes_part].mean(axis=0)
        assert_close(jax.tree.leaves(store.params), old, rtol=1e-5, atol=1e-5)
        assert_close(jax.tree.leaves(store.error_S), error, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("values,step", [("exact", 0.0), ("int8", 1 / 254), ("int2", 1 / 3)])
@pytest.mark.parametrize("shape,chunk,kept", [((7, 30), 64, 7), ((5,), 64, 1), ((256,), 64, 7)])
def test_a_message_holds_the_largest_entries_to_the_precision_of_its_values(
    shape, chunk, kept, values, step
):
    """The precision is a part of the largest entry of the chunk."""
    value = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    codec = sparse_codec(value, density=0.1, chunk=chunk, values=values)
    message = codec.encode(value)
    decoded, sent = np.asarray(codec.decode(message)), largest(value, codec.chunk, kept)
    assert np.abs(decoded - sent).max() <= step * np.abs(value).max() * 1.001
    assert ((decoded != 0) == (sent != 0)).all()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(message)) == codec.message_bytes


@pytest.mark.slow
@pytest.mark.parametrize("values", ["exact", "int8", "int2"])
def test_the_compiled_program_gathers_the_bytes_of_the_messages_and_no_more(values):
    options = dict(num_workers=4, batch_size=BATCH, placement=placements()["sharded-4"]())
    method = sparse_loco(SPLIT, TASK, SGD, density=0.1, chunk=64, values=values, **options)
    view = next(dataset().views(jax.random.key(5), 4, method.sharding, [range(1)]))
    weight_S = jax.device_put(np.ones(4, np.float32), method.sharding)
    given = (method.fresh(ROOT), view, jax.device_put(ROOT, method.sharding), weight_S)
    text = method.round.lower(*given, steps=2).compile().as_text()
    assert {each.kind for each in collectives(text)} == {"all-gather"}
    assert bytes_sent(text) == method.costs.bytes_per_sync
    dense = diloco(SPLIT, TASK, SGD, **options).costs
    assert method.costs.lower_bound == dense.bytes_per_sync
    assert method.costs.bytes_per_sync < dense.bytes_per_sync / 2
    assert method.costs.messages_per_sync == 3


@pytest.mark.parametrize(
    "options", [dict(density=0.0), dict(chunk=0), dict(values="int4"), dict(feedback=2.0)]
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="density is above 0 and at most 1, chunk at least 1"):
        sparse_loco(SPLIT, TASK, SGD, **OPTIONS, **options)
