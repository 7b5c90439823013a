"""The shapes of a graph that is not available, from its sizes: enough to compile programs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.core.graphs import Graph
from ist_jax.data.base import Spec
from ist_jax.data.graph_dataset import GraphOptions
from ist_jax.models.spmm import row_width


class GraphSize(NamedTuple):
    """The numbers of nodes, undirected edges, input features and classes of a graph."""

    nodes: int
    edges: int
    features: int
    classes: int


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def _integers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)


def graph_shapes(size: GraphSize, options: GraphOptions) -> tuple[Spec, Mapping[str, Any]]:
    """The spec of a graph of this size, and its training arrays as ShapeDtypeStructs.

    They stand in for what `make_graph_dataset` returns, with dense features. All nodes have equally
    many neighbours, and all clusters equally many nodes; a real graph takes somewhat more memory.
    With one cluster, all nodes are training nodes.
    """
    nodes, clusters = size.nodes, options.clusters
    degree, in_cluster = -(-2 * size.edges // nodes), -(-nodes // clusters)
    width = row_width(np.array([degree]))
    overflow = max(-(-degree // width) - 1, 0)  # rows of every node
    axes = (2, size.features) if options.first_product == "mean" else (size.features,)
    graph = Graph(
        features=_floats(nodes, *axes),
        degree_N=_floats(nodes),
        mask_N=_floats(nodes),
        neighbours_NxW=_integers(nodes, width),
        overflow_RxW=_integers(nodes * overflow, width),
        receiver_R=_integers(nodes * overflow),
    )
    arrays = {
        "cluster": _integers(clusters),
        "graph": graph,
        "label_N": _integers(nodes),
        "cluster_N": _integers(nodes),
        "start": _integers(clusters + 1),
        "row_start": _integers(clusters + 1),
        "slot": _integers(in_cluster),
        "row_slot": _integers(in_cluster * overflow),
        "counted_N": _floats(nodes),
    }
    return Spec((size.features,), size.classes, clusters, 0.0, 1.0, "node_classification"), arrays
