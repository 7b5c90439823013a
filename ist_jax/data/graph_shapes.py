"""The shapes of a graph that is not available, from four numbers: enough to compile programs."""

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


def graph_shapes(size: GraphSize, options: GraphOptions) -> tuple[Spec, Mapping[str, Any]]:
    """The spec and training arrays of such a graph, as ShapeDtypeStructs.

    They stand for what `make_graph_dataset` returns, with dense features. All nodes get equal
    numbers of neighbours, and all clusters equal numbers of nodes; a real graph takes somewhat more
    memory. With one cluster, all nodes are training nodes.
    """
    nodes, clusters = size.nodes, options.clusters
    degree, in_cluster = -(-2 * size.edges // nodes), -(-nodes // clusters)
    width = row_width(np.array([degree]))
    overflow = max(-(-degree // width) - 1, 0)  # rows of every node
    floats = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    integers = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    axes = (2, size.features) if options.first_product == "mean" else (size.features,)
    graph = Graph(
        features=floats(nodes, *axes),
        degree_N=floats(nodes),
        mask_N=floats(nodes),
        neighbours_NxW=integers(nodes, width),
        overflow_RxW=integers(nodes * overflow, width),
        receiver_R=integers(nodes * overflow),
    )
    arrays = {
        "cluster": integers(clusters),
        "graph": graph,
        "label_N": integers(nodes),
        "cluster_N": integers(nodes),
        "start": integers(clusters + 1),
        "row_start": integers(clusters + 1),
        "slot": integers(in_cluster),
        "row_slot": integers(in_cluster * overflow),
        "counted_N": floats(nodes),
    }
    return Spec((size.features,), size.classes, clusters, 0.0, 1.0, "node_classification"), arrays
