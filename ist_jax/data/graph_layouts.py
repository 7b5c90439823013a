"""Converts arrays of graphs from the layouts of PyG, DGL, OGB and the heterophilous benchmark.

Unambiguous arrays are converted: masks of zeros and ones of any type, labels with an extra axis or
stored as whole floats, several splits side by side. Others are returned unchanged, or refused.
"""

from typing import Any

import numpy as np

from ist_jax.data.raw import DataError


def _is_number(array: np.ndarray) -> bool:
    return bool(np.issubdtype(array.dtype, np.number))


def without_axis(array: np.ndarray, num_nodes: int) -> np.ndarray:
    """[N] from [N, 1] or [1, N]; other arrays unchanged."""
    is_column = array.shape in ((num_nodes, 1), (1, num_nodes))
    return array.reshape(-1) if is_column else array


def as_mask(mask: Any, num_nodes: int) -> Any:
    """bool[N] from a mask of zeros and ones of any type; other arrays unchanged."""
    array = without_axis(np.asarray(mask), num_nodes)
    if array.shape != (num_nodes,) or not _is_number(array):
        return array
    return array.astype(bool) if np.isin(array, (0, 1)).all() else array


def as_labels(labels: Any, num_nodes: int) -> Any:
    """int[N] from integers or whole floats, [N] or [N, 1]; other arrays unchanged.

    A nan label becomes -1. A node with such a label must not be in a split.
    """
    array = without_axis(np.asarray(labels), num_nodes)
    if array.shape != (num_nodes,) or not np.issubdtype(array.dtype, np.floating):
        return array
    known = np.where(np.isnan(array), -1, array)
    is_whole = (np.abs(known) < 2**31).all() and (known == np.rint(known)).all()
    return known.astype(np.int64) if is_whole else array


def as_edges(edges: np.ndarray, name: str, source: str) -> np.ndarray:
    """[2, E] from edges [2, E] or [E, 2]; other arrays unchanged.

    Raises:
      DataError: the shape is [2, 2], which could be either.
    """
    if edges.ndim != 2 or edges.shape[1] != 2 or (name == "edge_index" and edges.shape[0] == 2):
        return edges
    if edges.shape[0] == 2 and (edges != edges.T).any():
        raise DataError(
            f"{source}: {name} of shape (2, 2) may be read by rows or by columns: save it as "
            "edge_index, whose columns are edges"
        )
    return edges.T


def split_mask(array: np.ndarray, name: str, num_nodes: int, number: int, source: str) -> Any:
    """bool[N]: the nodes of one split.

    Args:
      array: a mask [N], or several masks, [N, K] or [K, N]. If its name does not say that it is a
        mask, it may also hold the numbers of the nodes.
      name: of the array.
      num_nodes: N.
      number: which of several masks.
      source: file, for errors.

    Raises:
      DataError: the meaning of the array is unclear, or a node does not exist.
    """
    if "mask" not in name and not _looks_like_mask(array, num_nodes):
        return _mask_of_nodes(array, name, num_nodes, source)
    if count_splits(array, num_nodes) > 1:
        array = _by_split(array, name, num_nodes, source)[number]
    mask = as_mask(array, num_nodes)
    if mask.shape != (num_nodes,) or mask.dtype != bool:
        raise DataError(
            f"{source}: {name} has a 0 or 1 for each of {num_nodes} nodes; it is "
            f"{array.dtype}{list(array.shape)}: save numbers of nodes as "
            f"{name.replace('masks', 'mask').replace('mask', 'idx')}"
        )
    return mask


def count_splits(array: np.ndarray, num_nodes: int) -> int:
    """The number of masks of N nodes that are side by side in an array; 1 for other shapes."""
    if array.ndim != 2 or num_nodes not in array.shape:
        return 1
    return array.shape[1] if array.shape[0] == num_nodes else array.shape[0]


def _by_split(array: np.ndarray, name: str, num_nodes: int, source: str) -> np.ndarray:
    """[K, N] from several masks, [N, K] or [K, N]."""
    if array.shape == (num_nodes, num_nodes):
        raise DataError(
            f"{source}: {name} of shape {array.shape} may have a split in each row or column: "
            "save one split of them, [N]"
        )
    return array.T if array.shape[0] == num_nodes else array


def _looks_like_mask(array: np.ndarray, num_nodes: int) -> bool:
    """Whether an array is a mask though its name does not say so.

    Zeros and ones are a mask, since as numbers of nodes they would repeat.
    """
    array = without_axis(array, num_nodes)
    return array.dtype == bool or (
        num_nodes > 2 and array.shape == (num_nodes,) and bool(np.isin(array, (0, 1)).all())
    )


def missing_node(nodes: np.ndarray, num_nodes: int) -> int | None:
    """A number among `nodes` that no node has; None if all of them are from 0 to N - 1."""
    ends = (nodes.min(), nodes.max()) if nodes.size else ()
    return next((int(node) for node in ends if not 0 <= node < num_nodes), None)


def _mask_of_nodes(array: np.ndarray, name: str, num_nodes: int, source: str) -> np.ndarray:
    """bool[N] from the numbers of nodes, [n] or [n, 1]."""
    node_n = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if node_n.ndim != 1 or not np.issubdtype(node_n.dtype, np.integer):
        raise DataError(
            f"{source}: {name} has the numbers of a split's nodes; it is "
            f"{array.dtype}{list(array.shape)}: give integers of shape [n]"
        )
    if (wrong := missing_node(node_n, num_nodes)) is not None:
        raise DataError(
            f"{source}: {name} has nodes from 0 to {num_nodes - 1}, and one is {wrong}: give the "
            "numbers of nodes of this graph"
        )
    return np.isin(np.arange(num_nodes), node_n)
