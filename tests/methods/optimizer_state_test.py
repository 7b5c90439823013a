"""Optimizers whose clock is longer than a round, or not the local step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH, ROOT, TASK, also_slowly
from tiny_model import assert_alike, distance, plainly_trained, tiny, trained

from ist_jax import Phase, data_parallel, ensemble, ist, local_sgd
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.methods import Start, optimizer_facts
from ist_jax.methods.optimizer_facts import inspect

GATHERING = {
    "MultiSteps": lambda: optax.MultiSteps(optax.sgd(0.1), 4),
    "gradient_transformation": lambda: optax.chain(
        optax.clip(1.0), optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation()
    ),
    "apply_every": lambda: optax.chain(optax.apply_every(4), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", GATHERING)
def test_a_round_that_would_lose_gathered_gradients_is_refused(name):
    """MultiSteps of 4 steps moved nothing in rounds of 3, and lost a step in each round of 5."""
    tx, options = GATHERING[name](), dict(batch_size=BATCH)
    method = ist(tiny(2), TASK, tx, **options)
    for steps in (3, 5, 6):
        says = f"over 4 steps loses some in rounds of {steps} local steps: use a multiple of 4 or "
        with pytest.raises(ValueError, match=f"{says}opt_state='carry'"):
            Phase(method, 1000, steps)
    for steps in (4, 8):
        Phase(method, 1000, steps)
    for other in (
        ist(tiny(2), TASK, tx, opt_state="carry", **options),
        local_sgd(tiny(2), TASK, tx, num_workers=2, opt_state="local", **options),
        data_parallel(tiny(2), TASK, tx, num_workers=2, **options),
        ensemble(tiny(2), TASK, tx, **options),
    ):
        Phase(other, 1000, 3)


@pytest.mark.parametrize("opt_state", ["carry", "data_parallel"])
def test_what_is_gathered_goes_on_in_the_next_round(opt_state):
    """Four steps are gathered; two rounds have three each."""
    tx = GATHERING["MultiSteps"]()
    expected = plainly_trained(tx, 3)
    assert_alike(trained(tx, opt_state, 3), expected["carry"])
    assert distance(expected["carry"], expected["start"]) > 1e-3


def test_steps_that_vary_or_depend_on_gradients_are_not_reset():
    varying = optax.MultiSteps(optax.sgd(0.1), lambda step: 2 + step)
    with pytest.raises(ValueError, match="'gradient_step' follows no fixed number of local steps"):
        ist(tiny(2), TASK, varying, batch_size=BATCH)
    Phase(ist(tiny(2), TASK, varying, batch_size=BATCH, opt_state="carry"), 1000, 3)
    skipping = optax.MultiSteps(optax.sgd(0.1), 2, should_skip_update_fn=optax.skip_not_finite)
    with pytest.raises(ValueError, match="with should_skip_update_fn accumulates gradients over"):
        ist(tiny(2), TASK, skipping, batch_size=BATCH)
    with pytest.raises(ValueError, match="depends on the gradients of all of a subnetwork"):
        ist(tiny(2), TASK, skipping, batch_size=BATCH, opt_state="carry")
    local_sgd(tiny(2), TASK, skipping, num_workers=2, batch_size=BATCH, opt_state="local")


def test_a_schedule_on_a_varying_number_of_steps_is_no_later_phase():
    """It began again, or at the local step, which is too far."""
    schedule = optax.sgd(optax.linear_schedule(0.1, 0.0, 100))
    skipping = optax.MultiSteps(schedule, 2, should_skip_update_fn=optax.skip_not_finite)
    varying = optax.MultiSteps(schedule, lambda step: 2 + step)
    for tx in (skipping, varying):
        method = data_parallel(tiny(2), TASK, tx, num_workers=2, batch_size=BATCH)
        start = Start(method.params(method.fresh(ROOT)), step=7)
        with pytest.raises(ValueError, match="cannot begin at step 7: .*gradient_step' counts for"):
            method.fresh(ROOT, start)
        method.fresh(ROOT, start._replace(step=0))


@pytest.mark.parametrize(
    "count_T,period",
    [
        (np.arange(99), 1),
        (np.zeros(99), 1),
        (np.minimum(np.arange(99), 1), 1),
        (np.arange(99) % 4, 4),
        (np.arange(99) // 2 % 3, 6),
        (np.array([0, 1, 0, 1, 2, 0, 1, 2, 3, 0]), None),  # 2 steps, then 3, then 4
    ],
)
def test_the_period_of_a_count(count_T, period):
    assert optimizer_facts._period(count_T) == period


def test_a_round_does_not_end_at_the_adversarial_parameters_of_sam():
    """Its next step would go back to the parameters of before the synchronisation."""
    tx = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2)
    for opt_state in ("reset", "carry"):
        method = ist(tiny(2), TASK, tx, batch_size=BATCH, opt_state=opt_state)
        with pytest.raises(ValueError, match="local steps: use a multiple of 2$"):
            Phase(method, 1000, 3)
        Phase(method, 1000, 4)


class Count(NamedTuple):
    count: jax.Array


def own_schedule(rate):
    """A schedule as a user would write it."""

    def update(updates, state, params=None):
        scaled = jax.tree.map(lambda leaf: -rate(state.count) * leaf, updates)
        return scaled, Count(state.count + 1)

    return optax.GradientTransformation(lambda params: Count(jnp.zeros((), jnp.int32)), update)


def drops(step):
    return optax.piecewise_constant_schedule(0.1, {step: 0.0})


# optimizers without moments, whose rate or decay drops to 0 within the second of two rounds
SCHEDULED = {
    "sgd": lambda: optax.sgd(drops(6)),
    "MultiSteps": lambda: optax.MultiSteps(optax.sgd(drops(3)), 2),
    "MultiSteps of MultiSteps": lambda: optax.MultiSteps(
        optax.MultiSteps(optax.sgd(drops(1)), 2).gradient_transformation(), 2
    ),
    "beside MultiSteps": lambda: optax.chain(
        optax.MultiSteps(optax.identity(), 2).gradient_transformation(), optax.sgd(drops(6))
    ),
    "weight decay": lambda: optax.chain(optax.add_decayed_weights(drops(6)), optax.sgd(0.1)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=drops(6)),
    "within inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda clip: optax.chain(optax.clip(clip), optax.sgd(drops(6)))
    )(clip=1.0),
    "conditionally_mask": lambda: optax.conditionally_mask(
        optax.sgd(0.1), lambda step: step % 3 == 0
    ),
    "apply_every": lambda: optax.chain(optax.apply_every(2), optax.sgd(drops(6))),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(drops(6)), 3),
    "partition": lambda: optax.partition(
        {"a": optax.sgd(drops(6)), "b": optax.sgd(0.1)}, {"hidden": "a", "output": "b"}
    ),
    "of a user": lambda: own_schedule(drops(6)),
}


@pytest.mark.parametrize(
    "name", also_slowly(("MultiSteps", "weight decay", "of a user"), SCHEDULED)
)
def test_schedules_run_on_the_steps_that_they_count_though_the_state_is_reset(name):
    """Inside MultiSteps of k steps, they ran k times too fast; those of decays began anew."""
    tx = SCHEDULED[name]()
    expected = plainly_trained(tx, 4)
    assert_alike(trained(tx, "reset", 4), expected["carry"])
    assert distance(expected["carry"], expected["reset"]) > 1e-4, "beginning anew is another thing"


def held(tx):
    return inspect(tx, jax.eval_shape(tiny(1).init, ROOT))


def by_name(facts, values):
    return {name: value for name, value in zip(facts.names, values) if value}


def test_what_a_state_holds_is_found_by_tracing_the_optimizer():
    facts = held(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(drops(6))))
    assert set(by_name(facts, facts.is_clock)) == {"1/0/count", "1/1/count"}
    assert by_name(facts, facts.rates) == {"1/1/count": 1}, "Adam's own count is of its moments"
    assert facts.period == 1 and not facts.holds_params
    facts = held(optax.MultiSteps(optax.adam(drops(6)), 3))
    rates = {"gradient_step": 3, "inner_opt_state/1/count": 3}
    assert by_name(facts, facts.rates) == rates and facts.period == 3
    twice = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    assert held(optax.MultiSteps(twice, 3)).period == 6
    facts = held(optax.contrib.prodigy())
    assert set(by_name(facts, facts.is_clock)) == {"count"} and facts.holds_params
    facts = held(optax.contrib.schedule_free_sgd(0.1))
    clocks = {"b1", "weight_sum", "step_count", "max_lr"}
    assert set(by_name(facts, facts.is_clock)) == clocks and facts.holds_params


def test_numbers_of_a_configuration_are_no_counts():
    facts = held(optax.inject_hyperparams(optax.apply_every)(k=4))
    assert "hyperparams/k" not in by_name(facts, facts.rates) and facts.period == 4


def test_an_outer_optimizer_of_some_parameters_is_sharded_as_they_are():
    """optax.masked leaves out some, which the shardings of the state did not expect."""
    tx = optax.masked(optax.sgd(0.7, momentum=0.9), {"hidden": True, "output": False})
    place = sharded(subnet_mesh(2))
    method = ist(tiny(2), TASK, optax.sgd(0.1), batch_size=BATCH, outer_tx=tx, placement=place)
    state = jax.eval_shape(method.init, ROOT)
    assert len(jax.tree.leaves(state.outer_state)) == 2
