"""The shapes of a graph that is not at hand, from a few numbers: enough to compile programs, and to read their memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.core.types import Graph
from ist_jax.data.base import Spec
from ist_jax.data.graph_dataset import GraphOptions
from ist_jax.data.graphs import row_width


class GraphSize(NamedTuple):
    """A graph by its numbers: nodes, undirected edges, input features, classes."""

    nodes: int
    edges: int
    features: int
    classes: int


def graph_shapes(size: GraphSize, options: GraphOptions) -> tuple[Spec, Mapping[str, Any]]:
    """The spec and the arrays, as ShapeDtypeStructs, of `size` as `make_graph_dataset` lays it out, dense, for training.

    Nodes all have as many neighbours, and clusters as many nodes: real ones differ, and take somewhat more. In one cluster, all
    nodes train, in every layer.
    """
    clusters, degree = options.clusters, -(-2 * size.edges // size.nodes)
    width, in_cluster = row_width(np.array([degree])), -(-size.nodes // clusters)
    further = max(-(-degree // width) - 1, 0)
    rows = size.nodes * further
    numbers = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    integers = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
    axes = (2, size.features) if options.first_product == "mean" else (size.features,)
    graph = Graph(
        features=numbers(size.nodes, *axes),
        degree_N=numbers(size.nodes),
        mask_N=numbers(size.nodes),
        neighbours_NxW=integers(size.nodes, width),
        overflow_RxW=integers(rows, width),
        receiver_R=integers(rows),
    )
    arrays = {
        "cluster": integers(clusters),
        "graph": graph,
        "label_N": integers(size.nodes),
        "cluster_N": integers(size.nodes),
        "start": integers(clusters + 1),
        "row_start": integers(clusters + 1),
        "slot": integers(in_cluster),
        "row_slot": integers(in_cluster * further),
        "counted_N": numbers(size.nodes),
    }
    return Spec((size.features,), size.classes, clusters, 0.0, 1.0, "node_classification"), arrays
