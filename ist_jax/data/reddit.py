"""Reddit posts of GraphSAGE (Hamilton et al., 2017) as DGL packs them: reddit_{data,graph}.npz.

The real files were not available: the reader follows their documentation, and is tested on a small
set in that format.
"""

import pathlib

import numpy as np

from ist_jax.data.graphs import RawGraph
from ist_jax.data.npz import read_npz
from ist_jax.data.raw import DataError

TRAIN, VALIDATION, TEST = 1, 2, 3  # of node_types


def load(directory: str, dataset: str) -> RawGraph:
    """Reads the folder `directory`. `dataset` is not used.

    Features are standardised by the mean and deviation of the training nodes. Training sees only
    the training nodes (inductive).

    Raises:
      DataError: files are missing or damaged.
    """
    del dataset
    folder = pathlib.Path(directory)
    nodes = read_npz(folder / "reddit_data.npz", ("feature", "label", "node_types"), "reddit")
    edges = read_npz(folder / "reddit_graph.npz", ("row", "col"), "reddit")
    if edges["row"].shape != edges["col"].shape:
        raise DataError(
            f"{folder}: row and col have one shape, "
            f"not {edges['row'].shape} and {edges['col'].shape}: fetch the set again"
        )
    types, x = nodes["node_types"], nodes["feature"].astype(np.float32)
    if types.shape != x.shape[:1] or x.ndim != 2:
        raise DataError(
            f"{folder}: every node has a type and a row of features, and their shapes are "
            f"{types.shape} and {x.shape}: fetch the set again"
        )
    if not (types == TRAIN).any():
        raise DataError(f"{folder}: node_types has no training node ({TRAIN}): fetch the set again")
    train = x[types == TRAIN]
    x = (x - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-6)
    splits = types == TRAIN, types == VALIDATION, types == TEST
    edges_2xE = np.stack([edges["row"], edges["col"]])
    return RawGraph(x, nodes["label"].astype(np.int64), edges_2xE, *splits, inductive=True)
