"""ogbn-arxiv and ogbn-products (Hu et al., NeurIPS 2020), read without torch.

A folder, as the ogb package unpacks it, holds raw/{node-feat,node-label,edge}.csv.gz and
split/KIND/{train,valid,test}.csv.gz. The real files were not available: the reader follows their
documentation, and is tested on a small folder in that format.
"""

import gzip
import pathlib
import zlib

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.graphs import RawGraph
from ist_jax.data.progress import open_with_progress
from ist_jax.data.raw import DataError


def load_arxiv(directory: str, dataset: str) -> RawGraph:
    """ogbn-arxiv. Citations become edges in both directions. `dataset` is not used.

    Raises:
      DataError: files are missing or damaged.
    """
    del dataset
    return _load(directory, "time", 40, inductive=False)


def load_products(directory: str, dataset: str) -> RawGraph:
    """ogbn-products, which stands in for the GIST paper's Amazon2M. `dataset` is not used.

    It has the nodes, features and classes of Amazon2M. Some classes have no training node.

    Raises:
      DataError: files are missing or damaged.
    """
    del dataset
    return _load(directory, "sales_ranking", 47, inductive=True)


def _load(directory: str, split: str, num_classes: int, inductive: bool) -> RawGraph:
    folder = pathlib.Path(directory)
    x = _table(folder / "raw" / "node-feat.csv.gz", np.float32)
    y = _table(folder / "raw" / "node-label.csv.gz", np.int64)
    edges_Ex2 = _table(folder / "raw" / "edge.csv.gz", np.int64)
    splits = []
    for part in ("train", "valid", "test"):
        nodes = _table(folder / "split" / split / f"{part}.csv.gz", np.int64).reshape(-1)
        if not len(nodes) or nodes.min() < 0 or nodes.max() >= len(x):
            raise DataError(
                f"{folder}: the {part} split names at least one node, from 0 to {len(x) - 1}, and "
                "no others: fetch it again"
            )
        splits.append(np.isin(np.arange(len(x)), nodes))
    options = dict(inductive=inductive, num_classes=num_classes)
    return RawGraph(x, y.reshape(-1), edges_Ex2.T, *splits, **options)


def _table(path: pathlib.Path, dtype: type) -> np.ndarray:
    """[rows, columns]: the numbers in a gzipped CSV file."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing; data.dir is a folder with raw/ and split/, as ogb unpacks it"
        )
    try:
        with open_with_progress(path) as file, gzip.open(file, "rt") as text:
            return np.loadtxt(text, dtype=dtype, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as comma-separated numbers ({first_line(error)}); "
            "fetch it again"
        ) from error
