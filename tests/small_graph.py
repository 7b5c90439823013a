"""One random graph for all suites: its matrix, its features, and parameters for a model of it."""

import jax
import numpy as np
from cases import FIRST_PRODUCTS, ROOT, graph_dataset, raw_graph

from ist_jax.data.graphs import adjacency
from ist_jax.tasks import node_classification

RAW, TASK = raw_graph(), node_classification()
DENSE = np.asarray(adjacency(RAW)[0].todense())
X = RAW.features_NxD


def weights(model, seed=0):
    """Random parameters, biases too, and the graph of all nodes."""
    graph = graph_dataset(first_product=FIRST_PRODUCTS[type(model)]).arrays("test")["graph"]
    shapes = jax.eval_shape(model.init, ROOT, graph)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes), graph
