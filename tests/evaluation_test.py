"""A model evaluated as it lies over a mesh is the full model, norms measured, in original order on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, DECOMPOSITIONS, ROOT, SGD, TASK, random_params

from ist_jax import ist
from ist_jax.algorithms.base import Start
from ist_jax.algorithms.evaluated import measured
from ist_jax.partition import uneven_groups
from ist_jax.placement import looped, sharded, subnet_mesh

PLACES = {"one device": looped, "mesh": lambda: sharded(subnet_mesh(4)), "two on a device": lambda: sharded(subnet_mesh(2))}


def examples(decomposition, seed, count):
    """A batch of random inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *decomposition.example.shape[1:])).astype(np.float32)
    return TASK.batch({"x": jnp.asarray(x), "y": jnp.zeros(count, jnp.int32)}, jnp.arange(count), None)


@pytest.mark.parametrize("with_sample", [True, False], ids=["measured on a sample", "of the batch"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["mlp-uneven", "chain", "blocks", "filters", "channels"])
def test_evaluation_as_units_lie(name, place, with_sample):
    """Four subnetworks do not divide all groups of any: of 18 and 13 units, 9 and 5 blocks, 6 filters, 6, 4 and 5 channels."""
    decomposition = DECOMPOSITIONS[name](4)
    parts = decomposition.partition
    assert uneven_groups(parts.sizes, parts.num_subnets)
    algorithm = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=PLACES[place]())
    params = random_params(decomposition)
    sample, batch = examples(decomposition, 1, 12) if with_sample else None, examples(decomposition, 2, 8)
    state = algorithm.fresh(ROOT, Start(params))
    found = jax.jit(lambda state: algorithm.predict(algorithm.variables(state, sample), batch))(state)
    full = decomposition.full
    expected = TASK.logits(full.apply, measured(full, TASK, params, sample), batch)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    assert np.abs(expected).max() > 0.01
