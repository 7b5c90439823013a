"""Cuts a graph into clusters with few edges between them, by METIS if pymetis is installed."""

import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np

from ist_jax.core.types import CsrMatrix
from ist_jax.data.progress import busy

LARGE = 50_000  # nodes; METIS cuts smaller graphs in seconds


def has_metis() -> bool:
    """Whether pymetis can be imported."""
    try:
        import pymetis  # noqa: F401
    except ImportError:
        return False
    return True


def by_metis(adjacency: CsrMatrix, num_clusters: int) -> np.ndarray:
    """int[N] by METIS (Karypis and Kumar, 1998): clusters of similar size, few edges cut."""
    import pymetis

    indptr, indices = adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64)
    return np.asarray(pymetis.part_graph(num_clusters, pymetis.CSRAdjacency(indptr, indices))[1])


def by_bandwidth(adjacency: CsrMatrix, num_clusters: int) -> np.ndarray:
    """int[N]: equal parts of the reverse Cuthill-McKee order, which keeps neighbours close."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(adjacency, symmetric_mode=True)
    cluster_N = np.empty(len(order), int)
    cluster_N[order] = np.arange(len(order)) * num_clusters // len(order)
    return cluster_N


def cutting_method() -> Callable[[CsrMatrix, int], np.ndarray]:
    """The function that cuts graphs on this machine: `by_metis` or `by_bandwidth`."""
    return by_metis if has_metis() else by_bandwidth


def clusters_of(
    adjacency: CsrMatrix, num_clusters: int, cache: str = "", name: str = ""
) -> np.ndarray:
    """int[N]: the cluster of every node, counted from 0 without gaps.

    Args:
      adjacency: symmetric adjacency matrix.
      num_clusters: how many to cut. METIS may leave some empty; the result then has fewer.
      cache: a folder that keeps the clusters. '' or a folder that cannot be written keeps none.
      name: of the data, which is part of the name of the file in the cache.
    """
    if num_clusters == 1:
        return np.zeros(adjacency.shape[0], int)
    cut = cutting_method()
    file = _cache_file(adjacency, num_clusters, cache, name, cut.__name__) if cache else None
    if file is not None and (kept := _load(file, adjacency.shape[0], num_clusters)) is not None:
        return kept
    is_large = adjacency.shape[0] > LARGE
    with busy(f"cutting the graph into {num_clusters} clusters", holds_gil=is_large):
        cluster_N = _without_gaps(cut(adjacency, num_clusters))
    if file is not None:
        _save(file, cluster_N)
    return cluster_N


def _without_gaps(cluster_N: np.ndarray) -> np.ndarray:
    """The same clusters, renumbered without the empty ones."""
    return np.unique(cluster_N, return_inverse=True)[1].reshape(-1)


def _cache_file(
    adjacency: CsrMatrix, num_clusters: int, cache: str, name: str, method: str
) -> pathlib.Path:
    about = f"{name} {adjacency.shape} {adjacency.nnz} {num_clusters} {method}"
    digest = hashlib.sha256(about.encode() + adjacency.indices.tobytes()).hexdigest()
    return pathlib.Path(cache) / f"clusters_{digest[:16]}.npy"


def _load(file: pathlib.Path, num_nodes: int, num_clusters: int) -> np.ndarray | None:
    """The clusters in `file`; None if it is missing or damaged."""
    try:
        cluster_N = np.load(file, allow_pickle=False) if file.is_file() else None
    except (OSError, ValueError):
        return None
    if cluster_N is None or cluster_N.shape != (num_nodes,):
        return None
    return cluster_N if _are_clusters(cluster_N, num_clusters) else None


def _are_clusters(cluster_N: np.ndarray, num_clusters: int) -> bool:
    """Whether these are at most `num_clusters` numbers, from 0 without gaps."""
    if not np.issubdtype(cluster_N.dtype, np.integer):
        return False
    in_range = cluster_N.min() == 0 and cluster_N.max() < num_clusters
    return bool(in_range and np.bincount(cluster_N).all())


def _save(file: pathlib.Path, cluster_N: np.ndarray) -> None:
    """Writes the file completely or not at all. A folder that cannot be written is no error."""
    unfinished = file.with_suffix(f".{os.getpid()}.npy")
    try:
        np.save(unfinished, cluster_N)
        unfinished.replace(file)
    except OSError:
        pass
