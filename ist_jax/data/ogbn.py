"""ogbn-arxiv and ogbn-products from the raw folders that the ogb package downloads (Hu et al., NeurIPS 2020), without torch.

A folder holds raw/{node-feat,node-label,edge}.csv.gz and split/KIND/{train,valid,test}.csv.gz. Not at hand here: read as the
format is documented, and tested on a small folder of that format.
"""

import gzip
import pathlib
import zlib

import numpy as np

from ist_jax.data.graphs import RawGraph
from ist_jax.data.progress import opened
from ist_jax.data.raw import DataError


def _table(path: pathlib.Path, dtype: type) -> np.ndarray:
    """[rows, columns] of a gzipped file of numbers between commas."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing; data.dir is a folder with raw/ and split/, as ogb unpacks it"
        )
    try:
        with opened(path) as file, gzip.open(file, "rt") as text:
            return np.loadtxt(text, dtype=dtype, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as numbers between commas ({reason}); fetch it again"
        ) from error


def _load(directory: str, split: str, num_classes: int, inductive: bool) -> RawGraph:
    folder = pathlib.Path(directory)
    read = lambda name, dtype: _table(folder / "raw" / f"{name}.csv.gz", dtype)
    x, y, edges_Ex2 = (
        read("node-feat", np.float32),
        read("node-label", np.int64),
        read("edge", np.int64),
    )
    splits = []
    for part in ("train", "valid", "test"):
        nodes = _table(folder / "split" / split / f"{part}.csv.gz", np.int64).reshape(-1)
        if not len(nodes) or nodes.min() < 0 or nodes.max() >= len(x):
            raise DataError(
                f"{folder}: the {part} split names nodes 0 to {len(x) - 1}, at least one of them"
            )
        splits.append(np.isin(np.arange(len(x)), nodes))
    return RawGraph(
        x, y.reshape(-1), edges_Ex2.T, *splits, inductive=inductive, num_classes=num_classes
    )


def load_arxiv(directory: str, dataset: str) -> RawGraph:
    """ogbn-arxiv; citations go both ways. Raises DataError: files are missing or damaged."""
    del dataset
    return _load(directory, "time", 40, inductive=False)


def load_products(directory: str, dataset: str) -> RawGraph:
    """ogbn-products, which stands for Amazon2M: same nodes, features and classes, of which some have no training node.

    Raises DataError as `load_arxiv`.
    """
    del dataset
    return _load(directory, "sales_ranking", 47, inductive=True)
