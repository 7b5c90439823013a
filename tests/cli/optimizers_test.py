"""Learning rates of a configuration: where they fall, with and without a warm-up."""

import dataclasses

import numpy as np
import pytest

from ist_jax.cli import optimizers
from ist_jax.cli.config import Config


def rates(schedule, warmup):
    """float[100]: the rate of every step of a run."""
    config = dataclasses.replace(
        Config().optimizer, schedule=schedule, learning_rate=0.4, warmup=warmup
    )
    return np.asarray(optimizers.schedule(config, 100)(np.arange(100)))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("name,falls", [("step", (50, 75)), ("thirds", (33, 66))])
def test_the_rate_falls_at_its_shares_of_the_run_whatever_the_warm_up(name, falls, warmup):
    """With a warm-up of 10 %, schedule=step fell at 55 % and 78 %."""
    after = np.arange(round(100 * warmup), 100)  # a fall within the warm-up comes at its end
    expected = 0.4 * 0.1 ** sum((after >= fall).astype(float) for fall in falls)
    np.testing.assert_allclose(rates(name, warmup)[after], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_smooth_decay_spans_what_is_left_after_the_warm_up(name):
    rate = rates(name, 0.2)
    np.testing.assert_allclose(rate[[0, 10, 20, 60]], [0.0, 0.2, 0.4, 0.2], atol=1e-6)
    assert 0 < rate[99] < 0.01
