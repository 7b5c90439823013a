"""Workers that take part in a round only in part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, ROOT, TASK, also_slowly, dataset, two_groups
from laws import assert_close
from optax import sgd

from ist_jax import data_parallel, diloco, ensemble, ist, replicated
from ist_jax.core.placement import vmapped

METHODS = {
    "ist": lambda: ist(two_groups(2), TASK, sgd(0.1), batch_size=BATCH),
    "local-sgd": lambda: ist(replicated(two_groups(2), 2), TASK, sgd(0.1), batch_size=BATCH),
    "ensemble": lambda: ensemble(two_groups(2), TASK, sgd(0.1), batch_size=BATCH),
}


def after_a_round(method, *weights, steps=2):
    """The full model's parameters after one round from the start."""
    view = next(dataset().views(jax.random.key(5), 2, method.info.sharding, [range(1)]))
    weight_S = jnp.array(weights, jnp.float32)
    state, _ = method.round(method.fresh(ROOT), view, ROOT, weight_S, steps=steps)
    return method.params(state)


@pytest.mark.parametrize("name", also_slowly(["ist"], METHODS))
def test_a_worker_of_weight_one_half_moves_its_units_half_way(name):
    method = METHODS[name]()
    before = method.params(method.fresh(ROOT))
    full, half = after_a_round(method, 1, 1), after_a_round(method, 0.5, 0.5)
    middle = jax.tree.map(lambda old, new: (old + new) / 2, before, full)
    assert_close(half, middle, rtol=1e-5, atol=1e-6)
    assert not np.allclose(half["output"]["kernel"], before["output"]["kernel"], atol=1e-4)


def test_data_parallel_takes_the_weighted_mean_of_gradients():
    method = data_parallel(
        two_groups(2), TASK, sgd(0.1), num_workers=2, batch_size=BATCH, placement=vmapped()
    )
    before = method.params(method.fresh(ROOT))

    def moved(*weights):
        return jax.tree.map(jnp.subtract, after_a_round(method, *weights, steps=1), before)

    first, second = moved(1, 0), moved(0, 1)
    expected = jax.tree.map(lambda a, b: (a + 0.5 * b) / 1.5, first, second)
    assert_close(moved(1, 0.5), expected, rtol=1e-4, atol=1e-6)
    assert_close(moved(0, 0.25), second, rtol=1e-4, atol=1e-6)


def test_a_lost_worker_of_diloco_keeps_its_optimizers_state():
    method = diloco(two_groups(2), TASK, sgd(0.1, momentum=0.9), num_workers=2, batch_size=BATCH)
    view = next(dataset().views(jax.random.key(5), 2, method.info.sharding, [range(1)]))
    before = jax.device_get(method.fresh(ROOT).opt_state)
    state, _ = method.round(method.fresh(ROOT), view, ROOT, jnp.array([0.5, 0.0]), steps=2)
    for old_S, new_S in zip(*map(jax.tree.leaves, (before, state.opt_state)), strict=True):
        np.testing.assert_array_equal(new_S[1], old_S[1])
        assert (np.asarray(new_S[0]) != old_S[0]).any()
