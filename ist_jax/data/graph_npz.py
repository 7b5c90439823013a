"""Your own graph: one .npz file with node_features, node_labels, edges and three masks."""

import pathlib

import numpy as np

from ist_jax.data.graphs import RawGraph
from ist_jax.data.npz import read_npz
from ist_jax.data.raw import DataError

ARRAYS = ("node_features", "node_labels", "edges", "train_mask", "val_mask", "test_mask")


def load(directory: str, dataset: str) -> RawGraph:
    """Reads the file `directory`. Edges are (2, E) or (E, 2), in any direction.

    With `dataset` 'inductive', training sees only the training nodes.

    Raises:
      DataError: `dataset` is neither '' nor 'inductive'; or the file or an array is missing, empty,
        damaged or pickled.
    """
    if dataset not in ("", "inductive"):
        raise DataError(f"data.dataset of graph_npz is empty or 'inductive', not {dataset!r}")
    arrays = read_npz(pathlib.Path(directory), ARRAYS, "graph_npz")
    edges = arrays["edges"]
    if edges.ndim == 2 and edges.shape[0] != 2 and edges.shape[1] == 2:
        edges = edges.T
    return RawGraph(
        np.asarray(arrays["node_features"]),
        arrays["node_labels"],
        edges,
        *(arrays[name] for name in ARRAYS[3:]),
        inductive=dataset == "inductive",
    )
