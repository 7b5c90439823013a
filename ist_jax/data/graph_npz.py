"""Bring your own graph: one .npz file with node_features, node_labels, edges and three masks."""

import pathlib

import numpy as np

from ist_jax.data.graphs import RawGraph
from ist_jax.data.npz import read_npz
from ist_jax.data.raw import DataError

ARRAYS = ("node_features", "node_labels", "edges", "train_mask", "val_mask", "test_mask")


def load(directory: str, dataset: str) -> RawGraph:
    """Reads the file `directory`; edges are (2, E) or (E, 2), in any direction. Pickled arrays are refused.

    `dataset` may be 'inductive': training then sees the training nodes alone.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    if dataset not in ("", "inductive"):
        raise DataError(f"data.dataset of graph_npz is empty or 'inductive', not {dataset!r}")
    found = read_npz(pathlib.Path(directory), ARRAYS, "graph_npz")
    edges = found["edges"]
    edges_2xE = (
        edges.T if edges.ndim == 2 and edges.shape[0] != 2 and edges.shape[1] == 2 else edges
    )
    return RawGraph(
        np.asarray(found["node_features"]),
        found["node_labels"],
        edges_2xE,
        *(found[name] for name in ARRAYS[3:]),
        inductive=dataset == "inductive",
    )
