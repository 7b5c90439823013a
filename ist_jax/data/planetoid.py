"""Cora, CiteSeer and PubMed with the public split: ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index} (Yang et al., ICML 2016).

The files are pickles. They are read with an unpickler that admits arrays, sparse matrices and plain containers, no other code.
"""

import io
import pathlib
import pickle
from typing import Any

import numpy as np
import scipy.sparse as sp

from ist_jax.data.graphs import RawGraph
from ist_jax.data.progress import opened
from ist_jax.data.raw import DataError, first_line

NAMES = ("cora", "citeseer", "pubmed")
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")
VALIDATION = 500
_MOST_FEATURES = 2**16  # rows are kept dense
_ADMITTED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("scipy.sparse.csr", "csr_matrix"),
    ("scipy.sparse._csr", "csr_matrix"),
    ("collections", "defaultdict"),
    ("__builtin__", "list"),
    ("builtins", "list"),
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which a Planetoid file does not need"
            )
        return sp.csr_matrix if name == "csr_matrix" else super().find_class(module, name)


def unpickled(path: pathlib.Path) -> Any:
    """What the pickle `path` holds, if it is arrays, sparse matrices and containers.

    Raises:
      DataError: the file is missing, damaged, or names anything else.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is missing; planetoid needs ind.NAME.{{{','.join(PARTS)},test.index}} in data.dir"
        )
    try:
        with opened(path) as file:
            found = _Restricted(io.BytesIO(file.read()), encoding="latin1").load()
        if isinstance(found, sp.csr_matrix):  # scipy reads wherever a damaged one points
            found.check_format(full_check=True)
        return found
    except Exception as error:  # a damaged pickle raises whatever the damaged byte leads to
        reason = first_line(error)
        raise DataError(f"{path}: cannot be read ({reason}); fetch it again") from error


def _test_nodes(path: pathlib.Path) -> np.ndarray:
    try:
        found = np.array([int(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of nodes ({error}); fetch it again"
        ) from error
    if not len(found) or len(np.unique(found)) < len(found):
        raise DataError(f"{path}: it names every test node once")
    return found


def _edges(graph: Any, source: str) -> np.ndarray:
    if not isinstance(graph, dict):
        raise DataError(
            f"{source}: the graph is a dictionary of neighbours, not {type(graph).__name__}"
        )
    if not all(isinstance(node, int | np.integer) for others in graph.values() for node in others):
        raise DataError(f"{source}: the graph's neighbours are integers: fetch it again")
    senders = [np.full(len(others), node, np.int64) for node, others in graph.items()]
    return np.stack(
        [
            np.concatenate(senders),
            np.concatenate([np.asarray(others, np.int64) for others in graph.values()]),
        ]
    )


def load(directory: str, dataset: str) -> RawGraph:
    """Reads `dataset`, one of `NAMES`, from the folder `directory`.

    Rows of features are divided by their sums, as all users of these sets do. Test nodes without a row (CiteSeer has 15) get
    one of zeros, and are in no split.

    Raises:
      DataError: files are missing, damaged, name other code than arrays, or do not fit together.
    """
    if dataset not in NAMES:
        raise DataError(f"data.dataset of planetoid is one of {', '.join(NAMES)}, not {dataset!r}")
    folder = pathlib.Path(directory)
    parts = {part: unpickled(folder / f"ind.{dataset}.{part}") for part in PARTS}
    test = _test_nodes(folder / f"ind.{dataset}.test.index")
    try:
        return _assembled(parts, test, str(folder))
    except DataError:
        raise
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{folder}: the files of {dataset} do not fit together ({error}); fetch them again"
        ) from error


def _assembled(parts: dict[str, Any], test: np.ndarray, source: str) -> RawGraph:
    known, num_train = parts["allx"].shape[0], parts["x"].shape[0]
    size = max(known, int(test.max()) + 1)
    if parts["allx"].shape[1] > _MOST_FEATURES:
        raise ValueError(
            f"{parts['allx'].shape[1]} features are more than the {_MOST_FEATURES} that such a set may have"
        )
    if size > known + 2 * len(test):
        raise ValueError(
            f"a test node {size - 1} is far beyond the {known} rows of allx and {len(test)} test nodes"
        )
    x, y = sp.lil_matrix((size, parts["allx"].shape[1]), dtype=np.float32), np.zeros(size, np.int64)
    if len(test) != parts["tx"].shape[0] or test.min() < known or num_train + VALIDATION > known:
        rows = f"{parts['tx'].shape[0]} rows of tx, {known} of allx"
        raise ValueError(f"{len(test)} test nodes from {test.min()} on, {rows}")
    x[:known], x[test] = parts["allx"], parts["tx"]
    y[:known], y[test] = parts["ally"].argmax(axis=1), parts["ty"].argmax(axis=1)
    features = np.asarray(x.todense(), np.float32)
    features /= np.maximum(features.sum(axis=1, keepdims=True), 1e-12)
    node = np.arange(size)
    splits = (
        node < num_train,
        (node >= num_train) & (node < num_train + VALIDATION),
        np.isin(node, test),
    )
    return RawGraph(
        features,
        y,
        _edges(parts["graph"], source),
        *splits,
        notes={"rows_of_zeros": size - known - len(test)},
    )
