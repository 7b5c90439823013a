"""Laws as steps that several suites take with their own models."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH, ROOT, TASK, params_of, random_params, rounds

from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.core.placement import subnet_mesh
from ist_jax.core.sample_order import draw
from ist_jax.core.subnet import extract, extract_all, label_axes, map_labels, merge
from ist_jax.exchange import one_device, over_mesh, storage_order
from ist_jax.methods import Start
from ist_jax.training.loop import LoopConfig, Stopped, run


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def plain_training(decomposition, tx, data, count, steps, params):
    """A training loop as anybody would write it: full model, one step after another."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    view = next(data.views(jax.random.key(5), 1, here, [range(1)]))

    @jax.jit
    def step(params, state, position, batch_key):
        batch = TASK.batch(view.arrays, draw(view, jnp.int32(0), position, BATCH), batch_key)
        gradient = jax.grad(lambda p: TASK.loss(decomposition.full, p, batch, batch_key)[0])(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    position = 0
    for _ in range(count):
        state = tx.init(params)
        for _ in range(steps):
            params, state = step(params, state, jnp.int32(position), ROOT)
            position += BATCH
    return params


def shapes_and_labels(decomposition):
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    return shapes, label_axes(shapes, decomposition.rules, decomposition.partition.sizes)


def masks(labels, params, indices):
    """[S, ...] per leaf: 1 where the subnetwork holds the entry."""

    def one(held):
        ones = jax.tree.map(lambda x: jnp.ones_like(x)[None], extract(params, labels, held))
        zeros = jax.tree.map(jnp.zeros_like, params)
        return merge(zeros, ones, labels, {group: index[None] for group, index in held.items()})

    return jax.vmap(one)(indices)


def check_law_5(make, places, data, start, rtol, atol, done=None):
    """All placements agree: the partition exactly, parameters and carried state to rounding.

    `done` keeps the result of every placement, for further calls with the same case.
    """
    done = {} if done is None else done
    for name in places.keys() - done.keys():
        method = make(places[name]())
        state, _ = rounds(method, 2, 2, data, jax.device_put(start, method.sharding))
        end = jax.jit(lambda state, method=method: method.end(state)[:2])(state)
        done[name] = jax.device_get((end, state.indices))
    results = {name: done[name] for name in places}
    expected, indices = results["looped"]
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), expected[0], jax.device_get(start.params)
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    for result, result_indices in results.values():
        jax.tree.map(np.testing.assert_array_equal, result_indices, indices)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), result, expected
        )


def check_law_7(make, data, steps):
    """Only step 10 has a learning rate: it trains if it is in the round, first or last."""
    method = make(optax.sgd(lambda step: jnp.where(step == 10, 0.1, 0.0)))
    start = Start(params_of(method, method.fresh(ROOT)))

    def moved(first):
        """The largest change by a round that begins with this step."""
        state, _ = rounds(method, 1, steps, data, start._replace(step=first))
        gaps = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), params_of(method, state), start.params
        )
        return max(jax.tree.leaves(gaps))

    assert min(moved(10), moved(11 - steps)) > 1e-4, "the first step and the last one train"
    assert max(moved(11), moved(10 - steps)) < 1e-6, "no step before or after does"


def check_law_10(phases, task, data, workdir, rounds_between):
    """A run that is stopped after each of these numbers of rounds ends as the unbroken one.

    Bit for bit.

    Returns:
      The parameters at the end.
    """
    config = LoopConfig(checkpoint_every=1, eval_every=0)
    unbroken = run(phases(), task, data, config)
    for count in rounds_between:
        asked = iter([False] * (count - 1) + [True])
        with pytest.raises(Stopped):
            run(phases(), task, data, config, workdir, stop=lambda asked=asked: next(asked))
    chex.assert_trees_all_equal(run(phases(), task, data, config, workdir).params, unbroken.params)
    return unbroken.params


def exchanged_rounds(exchange, parts, params, weight_S, count, factor):
    """Yields (indices, pulled or None, store) of the start and of `count` rounds.

    Training multiplies every parameter by `factor`.
    """
    indices, store = parts.first(), exchange.init(params)
    yield indices, None, store
    for r in range(count):
        key = jax.random.key(r)
        following = parts.sample(key, indices)
        store, indices = exchange.repartition(store, indices, following, key), following
        sub_S = exchange.pull(store, indices)
        store = exchange.push(
            store, sub_S, jax.tree.map(lambda leaf: factor * leaf, sub_S), indices, weight_S, key
        )
        yield indices, sub_S, store


def check_law_6(decomposition, parts, num_devices):
    """The exchange of `parts`, over a mesh and on one device."""
    num_subnets = parts.num_subnets
    shapes, labels = shapes_and_labels(decomposition)
    weight_S = np.float32(np.arange(num_subnets) != 1)

    def exchanged(exchange, params):
        """Two rounds, in each of which a subnetwork is lost: what is pulled, merged and stored."""
        seen = []
        # a power of two: no fused multiply-add may round differently in the two programs
        for indices, sub_S, store in exchanged_rounds(exchange, parts, params, weight_S, 2, 2):
            pulled_S = exchange.pull(store, indices) if sub_S is None else sub_S
            stored = exchange.stored_params(store, indices)
            seen.append((indices, pulled_S, exchange.params(store, indices), stored))
        return seen

    def by_definition(params):
        indices = parts.first()
        sub_S = extract_all(params, labels, indices, num_subnets)
        seen = [(indices, sub_S, params, extract(params, labels, storage_order(parts, indices)))]
        for r in range(2):
            indices = parts.sample(jax.random.key(r), indices)
            sub_S = extract_all(params, labels, indices, num_subnets)
            params = merge(
                params, jax.tree.map(lambda leaf: 2 * leaf, sub_S), labels, indices, weight_S
            )
            seen.append(
                (indices, sub_S, params, extract(params, labels, storage_order(parts, indices)))
            )
        return seen

    params = random_params(decomposition)
    expected = jax.jit(by_definition)(params)

    def close(label, a, b):
        return np.testing.assert_allclose(a, b, rtol=0 if label.groups else 1e-6)

    for exchange in (
        over_mesh(labels, shapes, parts, subnet_mesh(num_devices)),
        one_device(labels, shapes, parts),
    ):
        for actual, wanted in zip(
            jax.jit(functools.partial(exchanged, exchange))(params), expected
        ):
            jax.tree.map(np.testing.assert_array_equal, actual[0], wanted[0])
            for tree, other in zip(actual[1:], wanted[1:]):
                map_labels(close, labels, tree, other)


def compiled_bytes(labels, shapes, parts, together=True):
    """Bytes that a device sends in each step of a synchronisation as compiled for S devices."""
    num_subnets = parts.num_subnets
    exchange = over_mesh(labels, shapes, parts, subnet_mesh(num_subnets))
    indices, key, weight_S = parts.first(), jax.random.key(0), jnp.ones(num_subnets)
    store = jax.eval_shape(exchange.init, shapes)
    store = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        store,
        exchange.shardings,
    )
    sub_S = jax.eval_shape(exchange.pull, store, indices)
    steps = {
        "repartition": (exchange.repartition, (store, indices, indices, key)),
        "pull": (exchange.pull, (store, indices)),
        "push": (exchange.push, (store, sub_S, sub_S, indices, weight_S, key)),
    }
    texts = {name: jax.jit(f).lower(*args).compile().as_text() for name, (f, args) in steps.items()}
    assert {c.kind for text in texts.values() for c in collectives(text)} <= {
        "all-to-all",
        "all-reduce",
    }
    times = {
        name: [c.kind for c in collectives(text)].count("all-to-all")
        for name, text in texts.items()
    }
    assert (max(times.values()) == 1) == together, "small leaves go together, large ones alone"
    return {name: bytes_sent(text) for name, text in texts.items()}
