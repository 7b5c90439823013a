"""The digits inside scikit-learn as a nearest-neighbour graph of their images; no download.

The split is semi-supervised, as in Planetoid's graphs: 20 training nodes per class, 300 validation
nodes, and all others for testing.
"""

import numpy as np

from ist_jax.data.graphs import RawGraph

NEIGHBOURS, PER_CLASS, VALIDATION = 6, 20, 300


def load(directory: str, dataset: str) -> RawGraph:
    """The nearest-neighbour graph. `directory` and `dataset` are not used."""
    del directory, dataset
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    x, y = load_digits(return_X_y=True)
    edges_2xE = np.stack(kneighbors_graph(x, NEIGHBOURS).nonzero())
    order = np.random.default_rng(0).permutation(len(y))
    train = np.concatenate([order[y[order] == label][:PER_CLASS] for label in np.unique(y)])
    rest = order[~np.isin(order, train)]
    mask = lambda nodes: np.isin(np.arange(len(y)), nodes)
    splits = mask(train), mask(rest[:VALIDATION]), mask(rest[VALIDATION:])
    notes = {"neighbours": NEIGHBOURS}
    return RawGraph(x.astype(np.float32) / 16, y, edges_2xE, *splits, notes=notes)
