"""Reddit posts as GraphSAGE released them and DGL repacked them: reddit_data.npz and reddit_graph.npz (Hamilton et al., 2017).

Not at hand here: read as its documentation says, and tested on a small file of that format.
"""

import pathlib

import numpy as np

from ist_jax.data.graphs import RawGraph
from ist_jax.data.npz import read_npz
from ist_jax.data.raw import DataError

TRAIN, VALIDATION, TEST = 1, 2, 3  # of node_types


def load(directory: str, dataset: str) -> RawGraph:
    """Reads the folder `directory`: features are standardised on training nodes, and training sees these alone (inductive).

    Raises:
      DataError: files are missing or damaged.
    """
    del dataset
    folder = pathlib.Path(directory)
    nodes = read_npz(folder / "reddit_data.npz", ("feature", "label", "node_types"), "reddit")
    kept = read_npz(folder / "reddit_graph.npz", ("row", "col"), "reddit")
    if kept["row"].shape != kept["col"].shape:
        raise DataError(
            f"{folder}: edges have as many rows as columns, not {kept['row'].shape} and {kept['col'].shape}"
        )
    types, x = nodes["node_types"], nodes["feature"].astype(np.float32)
    if types.shape != x.shape[:1] or x.ndim != 2:
        raise DataError(
            f"{folder}: a type and features of every node, not of shapes {types.shape} and {x.shape}"
        )
    if not (types == TRAIN).any():
        raise DataError(f"{folder}: node_types name no training node ({TRAIN})")
    train = x[types == TRAIN]
    x = (x - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-6)
    splits = types == TRAIN, types == VALIDATION, types == TEST
    return RawGraph(
        x,
        nodes["label"].astype(np.int64),
        np.stack([kept["row"], kept["col"]]),
        *splits,
        inductive=True,
    )
