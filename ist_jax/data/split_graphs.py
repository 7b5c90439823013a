"""The part of a graph that a split uses: the full graph, its clusters, or a receptive field."""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from ist_jax.core.graphs import Graph, Layered, SparseMatrix
from ist_jax.core.types import CsrMatrix
from ist_jax.data.graphs import first_product
from ist_jax.models.spmm import neighbour_rows, sparse_matrix


class NodeGraph(NamedTuple):
    """A graph with the features and labels of its N nodes, on the host.

    Attributes:
      node_N: int, each node's number in the raw graph.
      adjacency: [N, N], symmetric, of zeros and ones.
      features: [N, D], or [N, 2, D] after the first product 'mean'.
      label_N: int, the labels.
      degree_N: int, neighbours of every node, including those outside this graph.
      has_sparse_features: whether splits store the features as a `SparseMatrix`.
    """

    node_N: np.ndarray
    adjacency: CsrMatrix
    features: np.ndarray
    label_N: np.ndarray
    degree_N: np.ndarray
    has_sparse_features: bool = False

    def induced(self, index_n: np.ndarray) -> "NodeGraph":
        """The graph of these nodes and the edges between them, with their degrees in this graph."""
        return self._replace(
            node_N=self.node_N[index_n],
            adjacency=self.adjacency[index_n][:, index_n].sorted_indices(),
            features=self.features[index_n],
            label_N=self.label_N[index_n],
            degree_N=self.degree_N[index_n],
        )

    def isolated(self, index_n: np.ndarray) -> "NodeGraph":
        """The graph of these nodes as if there were no others: degrees count their edges only."""
        alone = self.induced(index_n)
        return alone._replace(degree_N=np.diff(alone.adjacency.indptr))

    def with_first_product(self, kind: str) -> "NodeGraph":
        """This graph with its features after the first product `kind`."""
        return self._replace(features=first_product(kind, self.adjacency, self.features))

    def stored_features(self) -> np.ndarray | SparseMatrix:
        """The features as models take them."""
        features = np.ascontiguousarray(self.features)
        return sparse_matrix(features) if self.has_sparse_features else features


class SplitArrays(NamedTuple):
    """The arrays of a split.

    Attributes:
      node_N: int, the number in the raw graph of each node whose label is in `arrays`.
      arrays: 'graph', 'label_N' and 'start' (the first node of each cluster); and the others of
        `_sorted_clusters`, if batches are unions of clusters.
    """

    node_N: np.ndarray
    arrays: dict[str, Any]


def full_graph(graph: NodeGraph) -> SplitArrays:
    """All nodes in one cluster."""
    return _sorted_clusters(graph, np.zeros(len(graph.node_N), int))


def clusters(graph: NodeGraph, cluster_N: np.ndarray) -> SplitArrays:
    """All nodes, in the order of their clusters."""
    order_N = np.argsort(cluster_N, kind="stable")
    return _sorted_clusters(graph.induced(order_N), cluster_N[order_N])


def receptive_field(graph: NodeGraph, train_N: np.ndarray, depth: int) -> SplitArrays:
    """The nodes that the training nodes' logits depend on through `depth` sums over neighbours."""
    is_near_N = _distance(graph.adjacency, train_N, depth) <= depth
    return full_graph(graph.induced(np.flatnonzero(is_near_N)))


def receptive_field_by_layer(
    graph: NodeGraph, propagation: CsrMatrix, train_N: np.ndarray, depth: int
) -> SplitArrays:
    """`receptive_field` as a `Layered` graph: a layer has only the nodes that the next one reads.

    Args:
      graph: the full graph.
      propagation: [N, N], the matrix of a sum over neighbours (`graphs.propagation`).
      train_N: bool, the nodes whose logits the loss reads.
      depth: number of sums over neighbours.
    """
    distance_N = _distance(graph.adjacency, train_N, depth)
    order_N = np.argsort(distance_N, kind="stable")
    sizes = [int((distance_N <= hops).sum()) for hops in range(depth + 1)]

    @functools.cache  # layers of equal sizes share a block
    def block(upper: int, lower: int) -> SparseMatrix:
        return sparse_matrix(propagation[order_N[:upper]][:, order_N[:lower]])

    blocks = tuple(block(*pair) for pair in itertools.pairwise(sizes))[::-1]
    lowest = graph._replace(features=graph.features[order_N[: sizes[-1]]])
    train_n = order_N[: sizes[0]]
    arrays = {
        "graph": Layered(lowest.stored_features(), blocks),
        "label_N": graph.label_N[train_n].astype(np.int32),
        "start": np.array([0, len(train_n)], np.int32),
    }
    return SplitArrays(graph.node_N[train_n], arrays)


def _distance(adjacency: CsrMatrix, train_N: np.ndarray, depth: int) -> np.ndarray:
    """int[N]: hops to the nearest training node, or depth + 1 if there are more than `depth`."""
    distance_N = np.where(train_N, 0, depth + 1)
    for hop in range(1, depth + 1):
        is_reached_N = adjacency @ (distance_N < hop).astype(np.float32) > 0
        distance_N = np.where(is_reached_N, np.minimum(distance_N, hop), distance_N)
    return distance_N


def _sorted_clusters(graph: NodeGraph, cluster_N: np.ndarray) -> SplitArrays:
    """The arrays of nodes that are sorted by cluster.

    'slot' and 'row_slot' are ranges over the nodes and the overflow rows of the largest cluster.
    """
    mask_N = np.ones(len(cluster_N), np.float32)
    degree_N = graph.degree_N.astype(np.float32)
    stored = Graph(graph.stored_features(), degree_N, mask_N, *neighbour_rows(graph.adjacency))
    bounds = np.arange(cluster_N.max() + 2)
    start = np.searchsorted(cluster_N, bounds).astype(np.int32)
    row_start = np.searchsorted(cluster_N[stored.receiver_R], bounds).astype(np.int32)
    arrays = {
        "graph": stored,
        "label_N": graph.label_N.astype(np.int32),
        "cluster_N": cluster_N.astype(np.int32),
        "start": start,
        "row_start": row_start,
        "slot": np.arange(np.diff(start).max(), dtype=np.int32),
        "row_slot": np.arange(np.diff(row_start).max(), dtype=np.int32),
    }
    return SplitArrays(graph.node_N, arrays)
