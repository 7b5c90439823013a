"""Laws as steps that several suites take with models of their own."""

import chex
import jax
import numpy as np
import pytest
from cases import rounds

from ist_jax.training.loop import LoopConfig, Stopped, run


def check_law_5(make, places, data, start, rtol, atol):
    """All placements agree: the partition exactly, parameters (and what is carried with them) to rounding."""
    results = {}
    for name, place in places.items():
        algorithm = make(place())
        state, _ = rounds(algorithm, 2, 2, data, jax.device_put(start, algorithm.sharding))
        results[name] = jax.device_get((algorithm.end(state)[:2], state.indices))
    expected, indices = results["looped"]
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), expected[0], jax.device_get(start.params)
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    for found, found_indices in results.values():
        jax.tree.map(np.testing.assert_array_equal, found_indices, indices)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected
        )


def check_law_10(phases, task, data, workdir, rounds_between):
    """A run that is stopped after so many rounds, and again after so many more, ends as the unbroken one, bit for bit.

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
