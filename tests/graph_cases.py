"""A small random graph, its dense matrices, and what the tests of graph networks share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import FIRST_PRODUCTS, ROOT, graph_dataset, raw_graph

from ist_jax.core.types import Array, Batch, Params
from ist_jax.data import Dataset
from ist_jax.data.graphs import adjacency_of
from ist_jax.models import linen
from ist_jax.tasks import node_classification

RAW, TASK = raw_graph(), node_classification()
DENSE = np.asarray(adjacency_of(RAW)[0].todense())
X = RAW.features_NxD


def dense_symmetric() -> np.ndarray:
    """D^-1/2 (A + I) D^-1/2 of `RAW`."""
    with_self = DENSE + np.eye(len(DENSE))
    scale = 1 / np.sqrt(with_self.sum(axis=1))
    return scale[:, None] * with_self * scale[None]


def dense_norm(h: np.ndarray, norm: str) -> np.ndarray:
    axis = {"layer": 1, "matrix": None}[norm]
    return (h - h.mean(axis, keepdims=True)) / np.sqrt(h.var(axis, keepdims=True) + 1e-5)


def random_weights(model: Any, seed: int = 0) -> tuple[Params, Any]:
    """Random parameters, also of biases, and the graph of all nodes."""
    graph = graph_dataset(first_product=FIRST_PRODUCTS[type(model)]).arrays("test")["graph"]
    shapes = jax.eval_shape(model.init, ROOT, graph)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes), graph


def device_arrays(data: Dataset, part: str) -> Any:
    return jax.tree.map(jnp.asarray, data.arrays(part))


def task_loss(model: Any, params: Params, batch: Batch) -> Array:
    """The loss of `TASK`, without dropout unless the model has it."""
    return TASK.loss(linen(model), params, batch, ROOT)[0]


def assert_close(a: Any, b: Any, rtol: float, atol: float = 0.0) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
