"""A model in storage order over a mesh evaluates as the full model does on one device."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BATCH,
    DECOMPOSITIONS,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    inputs,
    on_a_graph,
    random_params,
)

from ist_jax import ist
from ist_jax.core.graphs import SparseMatrix
from ist_jax.core.model import Calibrated
from ist_jax.core.partition import uneven_groups
from ist_jax.core.placement import looped, sharded, subnet_mesh
from ist_jax.methods.base import Start
from ist_jax.methods.predictor import measure_stats

EVEN = ("gcn-split-input", "gcn-scaled", "sage-layer-norm", "gat", "gat-split-input")
NORMALISED = (
    "mlp-uneven",
    "chain",
    "blocks",
    "filters",
    "channels",
)  # with statistics, measured on a sample or of the batch
GRAPHS = ("gcn-uneven", "sage-split-input", *EVEN)
TRANSFORMERS = ("transformer", "transformer-layers")
PLACES = {
    "one device": looped,
    "mesh": lambda: sharded(subnet_mesh(4)),
    "two on a device": lambda: sharded(subnet_mesh(2)),
}


def test_evaluation_of_sparse_features_over_a_mesh():
    """It is that of one device, though features are sharded and sparse products are conditional."""

    def logits_by(place):
        ((method, *_),), task, data = on_a_graph(place)
        batch = task.batch(data.on_device("test", method.sharding), jnp.arange(1), None)
        assert isinstance(batch["x"].features, SparseMatrix)
        logits = jax.jit(lambda state, batch: method.predictor(state, None)(batch))
        return logits(method.fresh(ROOT), batch)

    logits_by_place = {name: logits_by(place()) for name, place in PLACES.items()}
    for logits in logits_by_place.values():
        np.testing.assert_allclose(logits, logits_by_place["one device"], rtol=2e-3, atol=2e-4)
    assert np.std(logits_by_place["mesh"], axis=0).min() > 0.01


EVERY = [
    *itertools.product(NORMALISED, [True, False], PLACES),
    *itertools.product((*GRAPHS, *TRANSFORMERS), [False], PLACES),
]
FAST = [
    *((name, True, "mesh") for name in ("mlp-uneven", "blocks")),
    *((name, False, "mesh") for name in GRAPHS[:2]),
    ("mlp-uneven", False, "two on a device"),
    ("chain", False, "one device"),
]


@pytest.mark.parametrize("name,with_sample,place", also_slowly(FAST, EVERY))
def test_evaluation_in_storage_order(name, with_sample, place):
    """Four subnetworks do not divide the groups of models that may be uneven.

    They have 18 and 13 units; 9 and 5 blocks; 6 filters; 6, 4 and 5 channels; 18 features; 6
    neurons, 5 heads and 5 layers.
    """
    decomposition = DECOMPOSITIONS[name](4)
    parts = decomposition.partition
    assert uneven_groups(parts.sizes, parts.num_subnets) or name in EVEN
    method = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=PLACES[place]())
    params = random_params(decomposition)
    sample, batch = (
        {"x": inputs(decomposition, 12, seed=1)} if with_sample else None,
        {"x": inputs(decomposition, seed=2)},
    )
    state = method.fresh(ROOT, Start(params))
    logits = jax.jit(lambda state: method.predictor(state, sample)(batch))(state)
    full = decomposition.full

    def predicted(params):
        stats = measure_stats(full, TASK, params, sample)
        return TASK.predict(Calibrated(full, stats), params, batch)

    expected = jax.jit(predicted)(params)
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-4)
    assert np.abs(expected).max() > 0.01
