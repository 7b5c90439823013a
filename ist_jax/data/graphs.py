"""The raw graph that a source reads, its checks, and constant products of its adjacency matrix."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ist_jax.core.types import CsrMatrix
from ist_jax.data.graph_layouts import as_labels, as_mask, missing_node
from ist_jax.data.raw import DataError, label_remedy


class RawGraph(NamedTuple):
    """What a source of graphs reads.

    Attributes:
      features_NxD: of every node; integers or floats.
      labels_N: integers; those of nodes in no split are ignored.
      edges_2xE: (from, to), directed or not, in any order.
      train_N, validation_N, test_N: bool, the splits.
      inductive: whether training sees only the graph of the training nodes.
      notes: what was done to the data, for records.
      num_classes: C, given if a class may have no training node. 0 stands for the largest training
        label plus one.
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
    """bool[N] for each split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def tidy(raw: RawGraph) -> RawGraph:
    """`raw` with its masks and labels converted where they are unambiguous (`graph_layouts`)."""
    size = len(raw.features_NxD) if np.ndim(raw.features_NxD) else 0
    masks = {name: as_mask(getattr(raw, name), size) for name in RawGraph._fields[3:6]}
    return raw._replace(labels_N=as_labels(raw.labels_N, size), **masks)


def check(raw: RawGraph, source: str) -> Splits:
    """Checks the arrays and returns the splits.

    Raises:
      DataError: the arrays do not fit together; the message starts with `source`.
    """
    _check_features(raw.features_NxD, source)
    _check_labels_and_edges(raw, source)
    splits = Splits(raw.train_N, raw.validation_N, raw.test_N)
    _check_splits(splits, raw.labels_N, source)
    _check_label_range(raw, splits, source)
    return splits


def _check_features(x: np.ndarray, source: str) -> None:
    if x.ndim != 2 or not x.size:
        raise DataError(
            f"{source}: features have a node axis and a feature axis, neither empty; "
            f"their shape is {x.shape}: x[:, None] makes one feature of numbers"
        )
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise DataError(
            f"{source}: features are numbers; they have dtype {x.dtype}: if they stand for "
            "numbers, x.astype(np.float32)"
        )
    if not (np.abs(x) <= np.finfo(np.float32).max).all():
        raise DataError(
            f"{source}: features are finite in float32, and some are nan, infinite or larger"
        )


def _check_labels_and_edges(raw: RawGraph, source: str) -> None:
    num_nodes, y, edges = len(raw.features_NxD), raw.labels_N, raw.edges_2xE
    if y.shape != (num_nodes,) or not np.issubdtype(y.dtype, np.integer):
        is_one_each = y.ndim == 2 or y.shape == (num_nodes,)
        remedy = "give one for every row of the features"
        if is_one_each:
            remedy = label_remedy(
                y,
                several="several labels per node are not supported: train on one of them, y[:, k]",
                numbers="regression on nodes is not supported: make classes of the targets, "
                "np.digitize(y, edges)",
            )
        raise DataError(
            f"{source}: one integer label per node; "
            f"{num_nodes} nodes, labels {y.dtype}{list(y.shape)}: {remedy}"
        )
    if edges.ndim != 2 or edges.shape[0] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise DataError(
            f"{source}: edges are integers of shape (2, E); "
            f"they are {edges.dtype}{list(edges.shape)}: give the two nodes of every edge"
        )
    if (wrong := missing_node(edges, num_nodes)) is not None:
        raise DataError(
            f"{source}: edges join nodes 0 to {num_nodes - 1}, and one names node {wrong}: number "
            "the nodes as the rows of the features"
        )


def _check_splits(splits: Splits, labels_N: np.ndarray, source: str) -> None:
    for part, mask_N in splits._asdict().items():
        if mask_N.shape != labels_N.shape or mask_N.dtype != bool:
            raise DataError(
                f"{source}: the {part} split is a bool per node; "
                f"it is {mask_N.dtype}{list(mask_N.shape)}: give True or 1 for its nodes, and "
                "False or 0 for the others"
            )
        if not mask_N.any():
            raise DataError(f"{source}: there are no {part} nodes: every split needs one")
    if overlap := int((np.sum(splits, axis=0) > 1).sum()):
        raise DataError(
            f"{source}: a node is in one split, and {overlap} are in several: leave them in one"
        )


def _check_label_range(raw: RawGraph, splits: Splits, source: str) -> None:
    used = raw.labels_N[splits.train | splits.validation | splits.test]
    if used.min() < 0:
        raise DataError(
            f"{source}: labels of nodes in a split count from 0; the smallest is {used.min()} (nan "
            "counts as -1): number the classes from 0, and leave nodes without one in no split"
        )
    if raw.num_classes:
        if used.max() >= raw.num_classes:
            raise DataError(
                f"{source}: labels are below {raw.num_classes}, the number of classes, "
                f"and one is {used.max()}"
            )
        return
    largest, num_train = raw.labels_N[splits.train].max(), splits.train.sum()
    if used.max() > largest:
        raise DataError(
            f"{source}: label {used.max()} never occurs in training, whose largest is {largest}"
        )
    if largest >= num_train:
        raise DataError(
            f"{source}: labels count from 0 without large gaps; "
            f"{num_train} nodes have a label {largest}"
        )


def adjacency_of(raw: RawGraph) -> tuple[CsrMatrix, dict[str, int]]:
    """The symmetric 0/1 adjacency matrix without a diagonal, and how the edges were changed."""
    import scipy.sparse as sp

    size, (senders, receivers) = len(raw.features_NxD), raw.edges_2xE
    is_loop = senders == receivers
    ones = np.ones(int((~is_loop).sum()), bool)
    entries = ones, (receivers[~is_loop], senders[~is_loop])
    given = sp.coo_matrix(entries, shape=(size, size)).tocsr()  # duplicates become one entry
    matrix = (given + given.T).tocsr()
    matrix.sort_indices()
    changes = {
        "self_edges_removed": int(is_loop.sum()),
        "duplicate_edges_removed": int(len(ones) - given.nnz),
        "reverse_edges_added": int(matrix.nnz - given.nnz),
        "isolated_nodes": int((np.diff(matrix.indptr) == 0).sum()),
    }
    return matrix.astype(np.float32), changes


def project(features_NxD: np.ndarray, components: int, seed: int) -> np.ndarray:
    """float32[N, components]: random projections of the features; 0 components keep the features.

    The entries of the matrix have variance 1 / components, which keeps distances. As in the
    authors' small-scale script, features that are zero for most nodes become dense.
    """
    if not components:
        return features_NxD.astype(np.float32)
    from sklearn.random_projection import GaussianRandomProjection

    projection = GaussianRandomProjection(
        components,  # pyright: ignore[reportArgumentType]  # a number is taken, too
        random_state=seed,
    )
    return projection.fit_transform(features_NxD).astype(np.float32)


def propagation(kind: str, adjacency: CsrMatrix) -> CsrMatrix:
    """[N, N], the matrix of a sum over neighbours.

    'symmetric' is D^-1/2 (A + I) D^-1/2, where D has the degrees of A + I. 'mean' is D^-1 A, where
    D has those of A.
    """
    import scipy.sparse as sp

    degree_N = np.diff(adjacency.indptr).astype(np.float32)
    if kind == "mean":
        return sp.csr_matrix(sp.diags(1 / np.maximum(degree_N, 1)) @ adjacency)
    scale = sp.diags(1 / np.sqrt(degree_N + 1))
    with_loops = adjacency + sp.eye(adjacency.shape[0], format="csr")
    return sp.csr_matrix(scale @ with_loops @ scale)


def first_product(kind: str, adjacency: CsrMatrix, features_NxD: np.ndarray) -> np.ndarray:
    """The constant input of the first layer, where P is `propagation(kind, adjacency)`.

    'none' gives the features X [N, D]; 'symmetric' P X [N, D]; 'mean' (X, P X) [N, 2, D].
    """
    if kind == "none":
        return features_NxD
    summed_NxD = (propagation(kind, adjacency) @ features_NxD).astype(np.float32)
    return summed_NxD if kind == "symmetric" else np.stack([features_NxD, summed_NxD], axis=1)


def fingerprint(raw: RawGraph) -> str:
    """SHA-256 of features, labels, edges and splits."""
    digest = hashlib.sha256()
    for array in raw[:6]:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
