"""Options of IST: schedules, optimizer state, and options that are errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    METHODS,
    ROOT,
    SGD,
    TASK,
    custom,
    params_of,
    rounds,
    two_groups,
)
from custom_models import CustomModule
from laws import assert_close

from ist_jax import decompose, ist, replicated
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.models import linen


def test_the_learning_rate_schedule_runs_on_the_global_step_though_the_state_is_reset():
    """A drop to 0 in the middle of the second round stops training there."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {5: 0.0}))
    method = ist(two_groups(2), TASK, tx, batch_size=BATCH)
    five, _ = rounds(ist(replicated(two_groups(2), 1), TASK, tx, batch_size=BATCH), 1, 5)
    six, _ = rounds(ist(replicated(two_groups(2), 1), TASK, tx, batch_size=BATCH), 2, 3)
    assert_close(five.store[0], six.store[0], rtol=1e-5, atol=1e-6)
    two, three = rounds(method, 2)[0], rounds(method, 3)[0]
    jax.tree.map(np.testing.assert_array_equal, params_of(method, two), params_of(method, three))


def test_carried_state_moves_with_its_units_and_counts_stay_integers():
    method = METHODS["ist-carry"](4)
    state, _ = rounds(method, 2, 3)
    end = jax.jit(method.end)
    adam = end(state).opt_state[0]
    assert adam.count.dtype == jnp.int32 and int(adam.count) == 6
    first = end(method.fresh(ROOT)).opt_state[0].mu
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
        ist(custom(2, "uniform"), TASK, SGD, batch_size=BATCH, placement=sharded(subnet_mesh(2)))
    with pytest.raises(ValueError, match="does not divide"):
        decompose([(".*", None)], {"g": 9}, num_subnets=2, full=None, subnet=None, example=None)
    with pytest.raises(ValueError, match="no multiple of 4 devices"):
        ist(two_groups(2), TASK, SGD, batch_size=BATCH, placement=sharded(subnet_mesh(4)))


def test_a_rule_that_matches_no_parameter_is_an_error():
    split = custom(4)
    misspelt = split._replace(rules=(*split.rules, ("heed/bias", None)))
    with pytest.raises(ValueError, match="'heed/bias' matches none .nearest is 'head/bias'."):
        ist(misspelt, TASK, SGD, batch_size=BATCH)


def test_a_subnetwork_with_other_shapes_than_the_rules_give_is_an_error():
    wrong = custom(4)._replace(subnet=linen(CustomModule(5, 2)))
    says = r"head/kernel has shape \[5, 5\] in the subnetwork's model and \[4, 5\] by the rules"
    with pytest.raises(ValueError, match=says):
        ist(wrong, TASK, SGD, batch_size=BATCH)
