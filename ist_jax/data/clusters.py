"""Cutting a graph into clusters with few edges between them: METIS where pymetis is installed, otherwise by bandwidth."""

import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from ist_jax.data.progress import busy

LARGE = 50_000  # nodes; fewer are cut in a moment


def has_metis() -> bool:
    """Whether pymetis can be imported."""
    try:
        import pymetis  # noqa: F401
    except ImportError:
        return False
    return True


def by_metis(matrix: sp.csr_matrix, num_clusters: int) -> np.ndarray:
    """int[N] by METIS (Karypis and Kumar, 1998): balanced parts, few edges cut."""
    import pymetis

    adjacency = pymetis.CSRAdjacency(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    )
    return np.asarray(pymetis.part_graph(num_clusters, adjacency)[1])


def by_bandwidth(matrix: sp.csr_matrix, num_clusters: int) -> np.ndarray:
    """int[N]: equal stretches of the reverse Cuthill-McKee order, in which neighbours lie near each other."""
    order = reverse_cuthill_mckee(matrix, symmetric_mode=True)
    cluster_N = np.empty(len(order), int)
    cluster_N[order] = np.arange(len(order)) * num_clusters // len(order)
    return cluster_N


def way() -> Callable[[sp.csr_matrix, int], np.ndarray]:
    """How graphs are cut on this machine."""
    return by_metis if has_metis() else by_bandwidth


def _without_gaps(cluster_N: np.ndarray) -> np.ndarray:
    """METIS may leave a part empty: the others count from 0."""
    return np.unique(cluster_N, return_inverse=True)[1].reshape(-1)


def _are_clusters(cluster_N: np.ndarray, num_clusters: int) -> bool:
    """Whether these are numbers from 0 without gaps, no more than `num_clusters` of them."""
    if (
        not np.issubdtype(cluster_N.dtype, np.integer)
        or cluster_N.min() != 0
        or cluster_N.max() >= num_clusters
    ):
        return False
    return bool(np.bincount(cluster_N).all())


def clusters_of(
    matrix: sp.csr_matrix, num_clusters: int, cache: str = "", name: str = ""
) -> np.ndarray:
    """int[N]: the cluster of every node.

    Args:
      matrix: symmetric adjacency matrix.
      num_clusters: how many; METIS may leave some empty.
      cache: a folder in which a large graph's clusters are kept; '' or one that cannot be written keeps none.
      name: of the data, for the file.
    """
    if num_clusters == 1:
        return np.zeros(matrix.shape[0], int)
    method = way()
    about = f"{name} {matrix.shape} {matrix.nnz} {num_clusters} {method.__name__}"
    digest = hashlib.sha256(about.encode() + matrix.indices.tobytes()).hexdigest()
    file = pathlib.Path(cache) / f"clusters_{digest[:16]}.npy" if cache else None
    try:
        if file is not None and file.is_file():
            found = np.load(file, allow_pickle=False)
            if found.shape == (matrix.shape[0],) and _are_clusters(found, num_clusters):
                return found
    except (OSError, ValueError):  # a damaged one is made again
        pass
    with busy(
        f"cutting the graph into {num_clusters} clusters", holds_python=matrix.shape[0] > LARGE
    ):
        found = _without_gaps(method(matrix, num_clusters))
    if file is not None:
        _keep(file, found)
    return found


def _keep(file: pathlib.Path, cluster_N: np.ndarray) -> None:
    """Whole or not at all; a folder that cannot be written keeps nothing."""
    unfinished = file.with_suffix(f".{os.getpid()}.npy")
    try:
        np.save(unfinished, cluster_N)
        unfinished.replace(file)
    except OSError:
        pass
