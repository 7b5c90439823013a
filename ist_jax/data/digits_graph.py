"""The digits inside scikit-learn as a graph: every image joined to its nearest neighbours; no download.

Semi-supervised as Planetoid's graphs are: 20 training nodes per class, 300 validation nodes, all others for testing.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

from ist_jax.data.graphs import RawGraph

NEIGHBOURS, PER_CLASS, VALIDATION = 6, 20, 300


def load(directory: str, dataset: str) -> RawGraph:
    """Ignores `directory` and `dataset`."""
    del directory, dataset
    x, y = load_digits(return_X_y=True)
    edges_2xE = np.stack(kneighbors_graph(x, NEIGHBOURS).nonzero())
    order = np.random.default_rng(0).permutation(len(y))
    train = np.concatenate([order[y[order] == label][:PER_CLASS] for label in np.unique(y)])
    rest = order[~np.isin(order, train)]
    mask = lambda nodes: np.isin(np.arange(len(y)), nodes)
    splits = mask(train), mask(rest[:VALIDATION]), mask(rest[VALIDATION:])
    return RawGraph(
        x.astype(np.float32) / 16, y, edges_2xE, *splits, notes={"neighbours": NEIGHBOURS}
    )
