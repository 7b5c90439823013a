"""The order in which workers see their examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ist_jax.core.sample_order import Shards, View, draw, permuted


def permutation(seed, size):
    return np.asarray(
        jax.vmap(lambda p: permuted(jax.random.key(seed), p, jnp.int32(size)))(jnp.arange(size))
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100, 1000, 1024, 1025])
def test_positions_are_permuted(size):
    assert sorted(permutation(0, size)) == list(range(size))
    if size >= 100:
        assert (permutation(0, size) != permutation(1, size)).mean() > 0.9
        assert (permutation(0, size) != np.arange(size)).mean() > 0.9


def test_permutations_look_random():
    """Examples are equally likely at every position, neighbours part, and orders do not repeat."""
    size, count = 10, 4000
    orders = np.stack(
        jax.device_get(
            jax.vmap(
                lambda k: jax.vmap(lambda p: permuted(k, p, jnp.int32(size)))(jnp.arange(size))
            )(jax.random.split(jax.random.key(0), count))
        )
    )
    frequency = np.stack([(orders == value).mean(axis=0) for value in range(size)])
    sigma = np.sqrt(0.1 * 0.9 / count)
    assert (np.abs(frequency - 0.1) < 6 * sigma).all()
    neighbours = (np.abs(np.diff(orders, axis=1)) == 1).mean()
    assert neighbours == pytest.approx(2 / size, abs=0.02)
    large = permutation(3, 4096)
    assert abs(np.corrcoef(large, np.arange(4096))[0, 1]) < 0.06
    assert abs(np.corrcoef(large[1:], large[:-1])[0, 1]) < 0.06


def stream(view, worker, count, chunk):
    pieces = [
        np.asarray(draw(view, jnp.int32(worker), jnp.int32(p), chunk))
        for p in range(0, count, chunk)
    ]
    return np.concatenate(pieces)


@pytest.mark.slow
def test_every_pass_sees_every_example_once_in_a_new_order_whatever_the_batch_size():
    shards = Shards(jnp.arange(30) + 100, jnp.array([0, 13]), jnp.array([13, 17]))
    view = View(None, shards, jax.random.key(0))
    for worker, (start, size) in enumerate([(0, 13), (13, 17)]):
        drawn = stream(view, worker, 3 * size, size)
        passes = drawn.reshape(3, size)
        for one_pass in passes:
            assert sorted(one_pass) == list(range(100 + start, 100 + start + size))
        assert (passes[0] != passes[1]).any() and (passes[1] != passes[2]).any()
        np.testing.assert_array_equal(stream(view, worker, 3 * size, 3 * size), drawn)
        ragged = [
            np.asarray(draw(view, jnp.int32(worker), jnp.int32(p), 5)) for p in range(0, 30, 5)
        ]
        np.testing.assert_array_equal(np.concatenate(ragged), drawn[:30])


def test_a_batch_may_be_larger_than_a_shard():
    view = View(None, Shards(jnp.arange(3), jnp.array([0]), jnp.array([3])), jax.random.key(0))
    assert np.bincount(np.asarray(draw(view, jnp.int32(0), jnp.int32(0), 9))).tolist() == [3, 3, 3]


def test_golden_order():
    order = permutation(7, 8).tolist()
    assert order == [0, 2, 4, 3, 1, 5, 7, 6], (
        "the data order of a key has changed: recorded runs will repeat differently; "
        "say so in CHANGELOG.md"
    )


@pytest.mark.slow
def test_a_batch_has_the_examples_of_its_positions_drawn_one_by_one():
    """Over any number of passes, also for several workers with shards of different sizes."""
    sizes, count = jnp.array([3, 13, 40]), 30
    view = View(None, Shards(jnp.arange(60), jnp.array([0, 3, 16]), sizes), jax.random.key(0))
    drawn_SxB = jax.jit(jax.vmap(lambda worker: draw(view, worker, jnp.int32(11), count)))(
        jnp.arange(3)
    )

    def example(worker, start, size, position):
        key = jax.random.fold_in(jax.random.fold_in(view.key, worker), position // size)
        return start + int(permuted(key, jnp.int32(position % size), jnp.int32(size)))

    for worker, (start, size) in enumerate(zip((0, 3, 16), (3, 13, 40))):
        assert drawn_SxB[worker].tolist() == [
            example(worker, start, size, 11 + b) for b in range(count)
        ]
