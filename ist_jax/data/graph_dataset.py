"""From a raw graph to a Dataset, whose examples are the clusters that it is cut into: one, the graph itself, by default."""

import functools
import hashlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from ist_jax.core.sample_order import Shards
from ist_jax.core.types import Layered
from ist_jax.data.base import Dataset
from ist_jax.data.clusters import clusters_of, way
from ist_jax.data.graphs import (
    RawGraph,
    Splits,
    adjacency,
    check,
    fingerprint,
    first_product,
    graph_of,
    projected,
    propagation,
    sparse,
)
from ist_jax.data.raw import DataError

FIRST_PRODUCTS = ("none", "symmetric", "mean")


class GraphOptions(NamedTuple):
    """How a graph is laid out for a model.

    Attributes:
      first_product: what is precomputed of the first layer, see `graphs.first_product`: 'symmetric' for GCN, 'mean' for
        GraphSAGE, 'none' for GAT.
      clusters: into how many the graph is cut, for batches that are unions of some of them (Cluster-GCN; Chiang et al., KDD
        2019).
      layers: if there is one cluster, training leaves out what does not touch the loss through so many layers: with a first
        product, in every layer the nodes that the next one does not read (`types.Layered`), otherwise nodes. None: all nodes
        are kept (needed by norms over all nodes).
      sparse_below: features of which a smaller share is not zero are laid out as `types.Sparse`, without a first product, if
        there is one cluster; what is more depends on the machine, and is faster as dense matrices.
      layer_nodes: how many nodes are drawn for every layer below a batch of training nodes (`tasks.layer_sampling`), which are
        the examples then; 0: examples are clusters.
      projection: how many random sums of the input features stand for them (`graphs.projected`); 0: the features themselves.
      seed: of the projection.
    """

    first_product: str = "none"
    clusters: int = 1
    layers: int | None = None
    sparse_below: float = 0.0
    layer_nodes: int = 0
    projection: int = 0
    seed: int = 0


def _distance(matrix: sp.csr_matrix, mask_N: np.ndarray, hops: int) -> np.ndarray:
    """int[N]: edges between a node and the nearest of `mask_N`, hops + 1 if there are more than `hops`."""
    distance_N = np.where(mask_N, 0, hops + 1)
    for hop in range(1, hops + 1):
        touched_N = matrix @ (distance_N < hop).astype(np.float32) > 0
        distance_N = np.where(touched_N, np.minimum(distance_N, hop), distance_N)
    return distance_N


class _Laid(NamedTuple):
    """A graph as it is trained or evaluated on: nodes in the order of their clusters."""

    node_N: np.ndarray  # in the raw graph
    arrays: dict[str, Any]


_Parts = dict[str, _Laid]


class _Seen(NamedTuple):
    """A graph, of which training may see a part."""

    matrix: sp.csr_matrix
    features: np.ndarray  # after the first product
    label_N: np.ndarray
    degree_N: np.ndarray
    is_sparse: bool = False


def _laid(seen: _Seen, node_N: np.ndarray, cluster_N: np.ndarray) -> _Laid:
    """The induced graph of `node_N`, which belong to clusters `cluster_N`."""
    order = np.argsort(cluster_N, kind="stable")
    node_N, cluster_N = node_N[order], cluster_N[order]
    features = np.ascontiguousarray(seen.features[node_N])
    laid = sparse(features) if seen.is_sparse else features
    graph = graph_of(seen.matrix[node_N][:, node_N].sorted_indices(), laid, seen.degree_N[node_N])
    edges = np.arange(cluster_N.max() + 2)
    start = np.searchsorted(cluster_N, edges).astype(np.int32)
    row_start = np.searchsorted(cluster_N[graph.receiver_R], edges).astype(np.int32)
    arrays = {
        "graph": graph,
        "label_N": seen.label_N[node_N].astype(np.int32),
        "cluster_N": cluster_N.astype(np.int32),
        "start": start,
        "row_start": row_start,
        "slot": np.arange(
            np.diff(start).max(), dtype=np.int32
        ),  # as many as the largest cluster has nodes
        "row_slot": np.arange(np.diff(row_start).max(), dtype=np.int32),
    }
    return _Laid(node_N, arrays)


def _laid_alone(
    matrix: sp.csr_matrix,
    features_NxD: np.ndarray,
    label_N: np.ndarray,
    node_N: np.ndarray,
    options: GraphOptions,
    cut: Any,
) -> _Laid:
    """The induced graph of `node_N` as if there were no other nodes."""
    part = matrix[node_N][:, node_N].sorted_indices()
    features = first_product(options.first_product, part, features_NxD[node_N])
    laid = _laid(
        _Seen(part, features, label_N[node_N], np.diff(part.indptr)),
        np.arange(len(node_N)),
        cut(part),
    )
    return _Laid(node_N[laid.node_N], laid.arrays)


def _laid_by_layer(seen: _Seen, takes: sp.csr_matrix, train_N: np.ndarray, sums: int) -> _Laid:
    """The training nodes, and below them in every layer what the one above reads; nearer nodes come first.

    Args:
      seen: the whole graph.
      takes: its `propagation`.
      train_N: bool, of which nodes logits are asked.
      sums: layers that sum over neighbours.
    """
    distance_N = _distance(seen.matrix, train_N, sums)
    order = np.argsort(distance_N, kind="stable")
    sizes = [int((distance_N <= hops).sum()) for hops in range(sums + 1)]
    block = functools.cache(lambda upper, lower: sparse(takes[order[:upper]][:, order[:lower]]))
    blocks = tuple(block(*pair) for pair in itertools.pairwise(sizes))[::-1]
    features = np.ascontiguousarray(seen.features[order[: sizes[-1]]])
    node_N = order[: sizes[0]]
    arrays = {
        "graph": Layered(sparse(features) if seen.is_sparse else features, blocks),
        "label_N": seen.label_N[node_N].astype(np.int32),
        "start": np.array([0, len(node_N)], np.int32),
    }
    return _Laid(node_N, arrays)


def _laid_for_training(seen: _Seen, train_N: np.ndarray, options: GraphOptions) -> _Laid:
    """What of the whole graph the loss of the training nodes reads; first products and degrees are those of the whole graph."""
    sums = options.layers - (options.first_product != "none" and not seen.is_sparse)
    if options.first_product != "none" and not options.layer_nodes:
        return _laid_by_layer(seen, propagation(options.first_product, seen.matrix), train_N, sums)
    near = np.flatnonzero(_distance(seen.matrix, train_N, sums) <= sums)
    return _laid(seen, near, np.zeros(len(near), int))


def _is_sparse(features_NxD: np.ndarray, options: GraphOptions) -> bool:
    if options.clusters > 1 or options.layer_nodes:  # of which rows are gathered
        return False
    return np.count_nonzero(features_NxD) < options.sparse_below * features_NxD.size


def _check_options(options: GraphOptions, num_train: int, source: str) -> None:
    if options.first_product not in FIRST_PRODUCTS:
        raise ValueError(
            f"first_product is one of {', '.join(FIRST_PRODUCTS)}, not {options.first_product!r}"
        )
    if not 1 <= options.clusters <= num_train:
        raise DataError(
            f"{source}: clusters are from 1 to {num_train} training nodes, not {options.clusters}"
        )
    if options.layer_nodes and (options.clusters > 1 or options.first_product == "none"):
        raise ValueError(
            "layer_nodes are of a graph in one cluster, with a first_product, whose weights they are drawn by"
        )


def _weights(first_product: str, degree_N: np.ndarray) -> dict[str, np.ndarray]:
    """P, as the product of what node j takes and node i gives, if they are neighbours, and what a node takes of itself."""
    if first_product == "mean":
        take_N, give_N, own_N = (
            1 / np.maximum(degree_N, 1),
            np.ones(len(degree_N)),
            np.zeros(len(degree_N)),
        )
    else:
        take_N, own_N = 1 / np.sqrt(degree_N + 1), 1 / (degree_N + 1)
        give_N = take_N
    return {
        name: value.astype(np.float32)
        for name, value in dict(take_N=take_N, give_N=give_N, own_N=own_N).items()
    }


def _recorded(options: GraphOptions, whole: _Laid, training: _Laid) -> dict[str, Any]:
    """What records say of the layout; of a graph that was cut, how and where, for batches follow from that."""
    chosen = {
        name: getattr(options, name)
        for name in ("layer_nodes", "projection")
        if getattr(options, name)
    }
    if options.clusters > 1:
        digest = hashlib.sha256()
        for laid in (whole, training):
            for array in (laid.node_N, laid.arrays["start"]):
                digest.update(array.astype(np.int64).tobytes())
        chosen |= {
            "cut": way().__name__,
            "parts": len(whole.arrays["start"]) - 1,
            "cut_sha256": digest.hexdigest(),
        }
    return {"clusters": options.clusters, **chosen}


def _fingerprint(data: str, cut: str) -> str:
    """Of the data, and of how they are cut, if they are: a run whose graph is cut in another way sees other batches."""
    return hashlib.sha256(f"{data} {cut}".encode()).hexdigest() if cut else data


def _classes(raw: RawGraph, train_N: np.ndarray) -> tuple[int, np.ndarray, dict[str, int]]:
    """(C, labels below it, what records say of them): whatever nodes without a label have instead of one, a loss that does not
    count them is finite."""
    num_classes = raw.num_classes or int(raw.labels_N[train_N].max()) + 1
    untrained = num_classes - len(np.unique(raw.labels_N[train_N]))
    label_N = np.where((raw.labels_N >= 0) & (raw.labels_N < num_classes), raw.labels_N, 0)
    return num_classes, label_N, {"classes without a training node": untrained} if untrained else {}


def _laid_for_all(
    seen: _Seen,
    features_NxD: np.ndarray,
    raw: RawGraph,
    splits: Splits,
    options: GraphOptions,
    cut: Any,
) -> _Parts:
    """The graph of every split: the whole one but for training, which may see or need a part of it."""
    whole = _laid(seen, np.arange(len(seen.degree_N)), cut(seen.matrix))
    training = whole
    if raw.inductive:
        training = _laid_alone(
            seen.matrix, features_NxD, seen.label_N, np.flatnonzero(splits.train), options, cut
        )
    elif options.layers is not None and options.clusters == 1:
        training = _laid_for_training(seen, splits.train, options)
    return {"train": training, "validation": whole, "test": whole}


def make_graph_dataset(
    raw: RawGraph,
    name: str,
    *,
    source: str,
    options: GraphOptions,
    shards: Callable[[np.ndarray, int], Shards],
    cache: str = "",
) -> Dataset:
    """Checks a raw graph, makes its edges symmetric and lays it out.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      options: what the model needs.
      shards: (labels of the examples, num_workers) -> Shards.
      cache: folder in which clusters are kept, '' for none.

    Raises:
      DataError: the arrays do not fit together, or a split is empty.
    """
    splits = check(raw, source)
    _check_options(options, int(splits.train.sum()), source)
    matrix, done = adjacency(raw)
    features_NxD, degree_N = (
        projected(raw.features_NxD, options.projection, options.seed),
        np.diff(matrix.indptr),
    )
    digest = fingerprint(raw)
    cut = functools.partial(clusters_of, num_clusters=options.clusters, cache=cache, name=digest)
    is_sparse = _is_sparse(features_NxD, options) and not raw.inductive
    product = "none" if is_sparse else options.first_product
    num_classes, label_N, about_classes = _classes(raw, splits.train)
    seen = _Seen(matrix, first_product(product, matrix, features_NxD), label_N, degree_N, is_sparse)
    laid = _laid_for_all(seen, features_NxD, raw, splits, options, cut)
    training = laid["train"]
    counted = {
        part: getattr(splits, part)[of.node_N].astype(np.float32) for part, of in laid.items()
    }
    resident = {part: {**of.arrays, "counted_N": counted[part]} for part, of in laid.items()}
    recorded = _recorded(options, laid["test"], training) | about_classes
    ids = {
        part: {"cluster": np.arange(len(of.arrays["start"]) - 1, dtype=np.int32)}
        for part, of in laid.items()
    }
    labels = ids["train"]["cluster"]  # clusters have none
    if options.layer_nodes:
        ids["train"] = {"node": np.flatnonzero(counted["train"]).astype(np.int32)}
        resident["train"] |= _weights(options.first_product, training.arrays["graph"].degree_N)
        labels = training.arrays["label_N"][ids["train"]["node"]]
    return Dataset(
        name=name,
        **ids,
        num_classes=num_classes,
        mean=0.0,
        std=1.0,
        fingerprint=_fingerprint(digest, recorded.get("cut_sha256", "")),
        shards=functools.partial(shards, labels),
        notes={**raw.notes, **done, "nodes": len(degree_N), "edges": int(matrix.nnz), **recorded},
        task="node_classification",
        example_shape=features_NxD.shape[1:],
        resident=resident,
    )
