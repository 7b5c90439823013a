"""From nodes and edges to a checked graph with symmetric edges, and to rows of neighbours."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.random_projection import GaussianRandomProjection

from ist_jax.core.types import Graph, Rows, Sparse, num_chunks
from ist_jax.data.raw import DataError

_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_ROW = 30  # what a row of a segment sum costs, in entries gathered; measured on a CPU
_TRIP = 800  # what rows of one width, and every step of a loop over them, cost beside their entries, in the same way


class RawGraph(NamedTuple):
    """What a source of graphs reads.

    Attributes:
      features_NxD: of every node; integers or floats.
      labels_N: integers; only those of nodes in a split count.
      edges_2xE: (from, to), directed or not, in any order.
      train_N, validation_N, test_N: bool, the splits.
      inductive: whether training sees only the graph of the training nodes.
      notes: what was done to the data, for records.
      num_classes: C where it is known, since some may have no training node; 0: as many as training nodes have.
    """

    features_NxD: np.ndarray
    labels_N: np.ndarray
    edges_2xE: np.ndarray
    train_N: np.ndarray
    validation_N: np.ndarray
    test_N: np.ndarray
    inductive: bool = False
    notes: Mapping[str, Any] = {}
    num_classes: int = 0


class Splits(NamedTuple):
    """bool[N] of every part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def _check_arrays(raw: RawGraph, source: str) -> None:
    x, y, edges = raw.features_NxD, raw.labels_N, raw.edges_2xE
    if x.ndim != 2 or not x.size:
        raise DataError(
            f"{source}: features have a node axis and a feature axis, neither empty; their shape is {x.shape}"
        )
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{source}: one integer label per node; {len(x)} nodes, labels {y.dtype}{list(y.shape)}"
        )
    if edges.ndim != 2 or edges.shape[0] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise DataError(
            f"{source}: edges are integers of shape (2, E); they are {edges.dtype}{list(edges.shape)}"
        )
    if edges.size and (edges.min() < 0 or edges.max() >= len(x)):
        wrong = edges.min() if edges.min() < 0 else edges.max()
        raise DataError(f"{source}: edges join nodes 0 to {len(x) - 1}, and one names node {wrong}")
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise DataError(f"{source}: features are numbers; they have dtype {x.dtype}")
    if not (np.abs(x) <= np.finfo(np.float32).max).all():
        raise DataError(f"{source}: features are finite in float32, and they hold nan, inf or more")


def check(raw: RawGraph, source: str) -> Splits:
    """The splits, or DataError if the arrays do not fit together."""
    _check_arrays(raw, source)
    splits = Splits(raw.train_N, raw.validation_N, raw.test_N)
    for part, mask_N in splits._asdict().items():
        if mask_N.shape != raw.labels_N.shape or mask_N.dtype != bool:
            raise DataError(
                f"{source}: the {part} split is a bool per node; it is {mask_N.dtype}{list(mask_N.shape)}"
            )
        if not mask_N.any():
            raise DataError(f"{source}: there are no {part} nodes")
    if overlap := int((sum(mask_N.astype(int) for mask_N in splits) > 1).sum()):
        raise DataError(f"{source}: a node is in one split, and {overlap} are in several")
    used = raw.labels_N[splits.train | splits.validation | splits.test]
    if used.min() < 0:
        raise DataError(
            f"{source}: labels of nodes in a split count from 0; the smallest is {used.min()}"
        )
    largest = raw.num_classes - 1 if raw.num_classes else raw.labels_N[splits.train].max()
    if used.max() > largest and raw.num_classes:
        raise DataError(
            f"{source}: labels are below {raw.num_classes}, the number of classes, and one is {used.max()}"
        )
    if used.max() > largest:
        raise DataError(
            f"{source}: label {used.max()} never occurs in training, whose largest is {largest}"
        )
    if largest >= splits.train.sum() and not raw.num_classes:
        raise DataError(
            f"{source}: labels count from 0 without large gaps; {splits.train.sum()} nodes have a label {largest}"
        )
    return splits


def adjacency(raw: RawGraph) -> tuple[sp.csr_matrix, dict[str, int]]:
    """The symmetric 0/1 adjacency matrix without a diagonal, and what was done to the edges for it."""
    size, (senders, receivers) = len(raw.features_NxD), raw.edges_2xE
    loops = senders == receivers
    ones = np.ones(int((~loops).sum()), bool)
    given = sp.coo_matrix(
        (ones, (receivers[~loops], senders[~loops])), shape=(size, size)
    ).tocsr()  # adds up duplicates
    matrix = (given + given.T).tocsr()
    matrix.sort_indices()
    done = {
        "self_edges_removed": int(loops.sum()),
        "duplicate_edges_removed": int(len(ones) - given.nnz),
        "reverse_edges_added": int(matrix.nnz - given.nnz),
        "isolated_nodes": int((np.diff(matrix.indptr) == 0).sum()),
    }
    return matrix.astype(np.float32), done


def row_width(degree_N: np.ndarray) -> int:
    """The width of rows for which gathers and segments together cost least."""
    rows = lambda width: np.maximum(-(-degree_N // width) - 1, 0).sum()
    return min(_WIDTHS, key=lambda width: len(degree_N) * width + rows(width) * (width + _ROW))


def in_rows(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns of entries in rows of a width that suits them: neighbours_NxW, overflow_RxW and receiver_R of a `Graph`."""
    size, count_N = matrix.shape[0], np.diff(matrix.indptr)
    width = row_width(count_N)
    row_E = np.repeat(np.arange(size), count_N)
    place_E = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], count_N)
    further_N = np.maximum(-(-count_N // width) - 1, 0)
    start_N = np.cumsum(further_N) - further_N
    first = place_E < width
    further_row_E = start_N[row_E[~first]] + place_E[~first] // width - 1
    neighbours_NxW = np.full((size, width), size, np.int32)
    overflow_RxW = np.full((further_N.sum(), width), size, np.int32)
    neighbours_NxW[row_E[first], place_E[first]] = matrix.indices[first]
    overflow_RxW[further_row_E, place_E[~first] % width] = matrix.indices[~first]
    return neighbours_NxW, overflow_RxW, np.repeat(np.arange(size, dtype=np.int32), further_N)


def _filled(width: int) -> int:
    """The least width from `width` on that falls into equal steps."""
    return num_chunks(width) * -(-width // num_chunks(width))


def widths(count_N: np.ndarray) -> np.ndarray:
    """The widths to which rows of so many entries are filled up so that padding and widths together cost least."""
    own, number = np.unique(np.maximum(count_N, 1), return_counts=True)
    counts, kind = np.unique([_filled(count) for count in own], return_inverse=True)
    rows = np.bincount(kind, number).astype(int)
    below = np.concatenate([[0], np.cumsum(rows)])  # rows with fewer entries than counts[j]
    cost, begin = np.zeros(len(counts) + 1), np.zeros(len(counts) + 1, int)
    for j in range(
        1, len(counts) + 1
    ):  # of all rows of up to counts[j - 1] entries, the last width from counts[i] on
        of_begin = (
            cost[:j]
            + (below[j] - below[:j]) * counts[j - 1]
            + _TRIP * (num_chunks(counts[j - 1]) + 1)
        )
        begin[j] = of_begin.argmin()
        cost[j] = of_begin[begin[j]]
    chosen, j = [], len(counts)
    while j:
        chosen.append(counts[j - 1])
        j = begin[j]
    return np.array(chosen[::-1])


def in_widths(matrix: sp.csr_matrix) -> Rows:
    """The entries of a matrix, rows of like numbers of them together."""
    count_N = np.diff(matrix.indptr)
    chosen = widths(count_N)
    column, value = (
        np.append(matrix.indices, 0).astype(np.int32),
        np.append(matrix.data, 0).astype(np.float32),
    )
    kind_N = np.searchsorted(chosen, count_N)
    rows, entries = (
        [np.flatnonzero(kind_N == kind).astype(np.int32) for kind in range(len(chosen))],
        [],
    )
    for row_n, width in zip(rows, chosen):
        slot_Wx1 = np.arange(width)[:, None]
        entries.append(
            np.where(slot_Wx1 < count_N[row_n], matrix.indptr[row_n] + slot_Wx1, -1)
        )  # -1: the appended
    place_N = np.argsort(np.concatenate(rows)).astype(np.int32)
    return Rows(
        tuple(rows),
        tuple(column[entry] for entry in entries),
        tuple(value[entry] for entry in entries),
        place_N,
    )


def sparse(matrix: np.ndarray | sp.csr_matrix) -> Sparse:
    """A matrix most of which is zero, by its entries that are not."""
    matrix = sp.csr_matrix(matrix)
    return Sparse(in_widths(matrix), in_widths(matrix.T.tocsr()))


def projected(features_NxD: np.ndarray, components: int, seed: int) -> np.ndarray:
    """float32[N, components]: the features times a random matrix with entries of variance 1 / components, which keeps distances
    (the authors' small-scale script does that to every graph, so that no feature is zero for most nodes); 0: the features."""
    if not components:
        return features_NxD.astype(np.float32)
    return (
        GaussianRandomProjection(components, random_state=seed)
        .fit_transform(features_NxD)
        .astype(np.float32)
    )


def propagation(kind: str, matrix: sp.csr_matrix) -> sp.csr_matrix:
    """What nodes take from nodes in a sum over neighbours: 'symmetric', D^-1/2 (A + I) D^-1/2; 'mean', D^-1 A."""
    degree_N = np.diff(matrix.indptr).astype(np.float32)
    if kind == "mean":
        return (sp.diags(1 / np.maximum(degree_N, 1)) @ matrix).tocsr()
    scale = sp.diags(1 / np.sqrt(degree_N + 1))
    return (scale @ (matrix + sp.eye(matrix.shape[0], format="csr")) @ scale).tocsr()


def first_product(kind: str, matrix: sp.csr_matrix, features_NxD: np.ndarray) -> np.ndarray:
    """What the first layer reads: 'none', the features X; 'symmetric', P X; 'mean', (X, P X), of shape [N, 2, D], P the
    `propagation` of the adjacency matrix."""
    if kind == "none":
        return features_NxD
    summed_NxD = (propagation(kind, matrix) @ features_NxD).astype(np.float32)
    return summed_NxD if kind == "symmetric" else np.stack([features_NxD, summed_NxD], axis=1)


def graph_of(matrix: sp.csr_matrix, features: np.ndarray | Sparse, degree_N: np.ndarray) -> Graph:
    """A `Graph` of numpy arrays; `degree_N` may count neighbours that are not part of it."""
    mask_N = np.ones(len(degree_N), np.float32)
    return Graph(features, degree_N.astype(np.float32), mask_N, *in_rows(matrix))


def fingerprint(raw: RawGraph) -> str:
    """SHA-256 of features, labels, edges and splits."""
    digest = hashlib.sha256()
    for array in (
        raw.features_NxD,
        raw.labels_N,
        raw.edges_2xE,
        raw.train_N,
        raw.validation_N,
        raw.test_N,
    ):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
