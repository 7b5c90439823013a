"""Cora, CiteSeer and PubMed with the public split (Yang et al., ICML 2016).

A set is the files ind.NAME.{x,tx,allx,y,ty,ally,graph}, which are pickles, and ind.NAME.test.index.
The unpickler admits arrays, sparse matrices and plain containers, and no other code.
"""

import io
import pathlib
import pickle
from typing import Any

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.graphs import RawGraph
from ist_jax.data.progress import open_with_progress
from ist_jax.data.raw import DataError

NAMES = ("cora", "citeseer", "pubmed")
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")
VALIDATION = 500
_MAX_FEATURES = 2**16  # features are dense in memory
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


def load(directory: str, dataset: str) -> RawGraph:
    """Reads `dataset`, one of `NAMES`, from the folder `directory`.

    Rows of features are divided by their sums, as is usual for these sets. Test nodes without a row
    (CiteSeer has 15) get a row of zeros, and are in no split.

    Raises:
      DataError: `dataset` has another name; or files are missing or damaged, name code that is not
        admitted, or do not fit together.
    """
    if dataset not in NAMES:
        raise DataError(f"data.dataset of planetoid is one of {', '.join(NAMES)}, not {dataset!r}")
    folder = pathlib.Path(directory)
    parts = {part: unpickle(folder / f"ind.{dataset}.{part}") for part in PARTS}
    test = _test_nodes(folder / f"ind.{dataset}.test.index")
    try:
        return _assemble(parts, test, str(folder))
    except DataError:
        raise
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{folder}: the files of {dataset} do not fit together ({error}); fetch them again"
        ) from error


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which a Planetoid file does not need"
            )
        if name != "csr_matrix":
            return super().find_class(module, name)
        import scipy.sparse as sp  # older files name a module that SciPy has renamed

        return sp.csr_matrix


def unpickle(path: pathlib.Path) -> Any:
    """The content of a pickle of arrays, sparse matrices and containers.

    Raises:
      DataError: the file is missing, damaged, or names anything else.
    """
    if not path.is_file():
        files = ",".join((*PARTS, "test.index"))
        raise DataError(f"{path} is missing; planetoid needs ind.NAME.{{{files}}} in data.dir")
    import scipy.sparse as sp

    try:
        with open_with_progress(path) as file:
            content = _RestrictedUnpickler(io.BytesIO(file.read()), encoding="latin1").load()
        if isinstance(content, sp.csr_matrix):  # SciPy follows a damaged one's indices unchecked
            content.check_format(full_check=True)
        return content
    except Exception as error:  # what a damaged pickle raises depends on the damaged byte
        raise DataError(f"{path}: cannot be read ({first_line(error)}); fetch it again") from error


def _test_nodes(path: pathlib.Path) -> np.ndarray:
    try:
        nodes = np.array([int(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of nodes ({error}); fetch it again"
        ) from error
    if not len(nodes) or len(np.unique(nodes)) < len(nodes):
        raise DataError(
            f"{path}: it names every test node once, and at least one; it is empty or repeats one: "
            "fetch it again"
        )
    return nodes


def _assemble(parts: dict[str, Any], test: np.ndarray, source: str) -> RawGraph:
    num_known, num_train = parts["allx"].shape[0], parts["x"].shape[0]
    size = max(num_known, int(test.max()) + 1)
    _check_sizes(parts, test, size)
    import scipy.sparse as sp

    x = sp.lil_matrix((size, parts["allx"].shape[1]), dtype=np.float32)
    y = np.zeros(size, np.int64)
    x[:num_known], x[test] = parts["allx"], parts["tx"]
    y[:num_known], y[test] = parts["ally"].argmax(axis=1), parts["ty"].argmax(axis=1)
    features = np.asarray(x.todense(), np.float32)
    features /= np.maximum(features.sum(axis=1, keepdims=True), 1e-12)
    node = np.arange(size)
    is_validation = (node >= num_train) & (node < num_train + VALIDATION)
    splits = node < num_train, is_validation, np.isin(node, test)
    notes = {"rows_of_zeros": size - num_known - len(test)}
    return RawGraph(features, y, _edges(parts["graph"], source), *splits, notes=notes)


def _check_sizes(parts: dict[str, Any], test: np.ndarray, size: int) -> None:
    """Raises ValueError if the files do not fit together, or would not fit into memory."""
    num_known, num_features = parts["allx"].shape
    if num_features > _MAX_FEATURES:
        raise ValueError(
            f"{num_features} features are more than the {_MAX_FEATURES} that such a set may have"
        )
    if size > num_known + 2 * len(test):
        raise ValueError(
            f"a test node {size - 1} is far beyond the {num_known} rows of allx "
            f"and {len(test)} test nodes"
        )
    has_validation = parts["x"].shape[0] + VALIDATION <= num_known
    if len(test) != parts["tx"].shape[0] or test.min() < num_known or not has_validation:
        rows = f"{parts['tx'].shape[0]} rows of tx, {num_known} of allx"
        raise ValueError(f"{len(test)} test nodes from {test.min()} on, {rows}")


def _edges(graph: Any, source: str) -> np.ndarray:
    """int64[2, E]: the edges of a dictionary node -> neighbours."""
    if not isinstance(graph, dict):
        raise DataError(
            f"{source}: the graph is a dictionary of neighbours, not {type(graph).__name__}"
        )
    if not all(isinstance(node, int | np.integer) for others in graph.values() for node in others):
        raise DataError(f"{source}: the graph's neighbours are integers: fetch it again")
    senders = [np.full(len(others), node, np.int64) for node, others in graph.items()]
    receivers = [np.asarray(others, np.int64) for others in graph.values()]
    return np.stack([np.concatenate(senders), np.concatenate(receivers)])
