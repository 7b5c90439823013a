"""From a raw graph to a `Dataset`. Its examples are the clusters of the graph, one by default."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ist_jax.core.sample_order import Shards
from ist_jax.data.base import Dataset
from ist_jax.data.clusters import clusters_of, cutting_method
from ist_jax.data.graphs import (
    RawGraph,
    Splits,
    adjacency_of,
    check,
    fingerprint,
    project,
    propagation,
    tidy,
)
from ist_jax.data.plausible import sampled, unlike_scales, untrained_classes, unused_labels
from ist_jax.data.raw import DataError
from ist_jax.data.split_graphs import (
    NodeGraph,
    SplitArrays,
    clusters,
    full_graph,
    receptive_field,
    receptive_field_by_layer,
)

FIRST_PRODUCTS = ("none", "symmetric", "mean")


class GraphOptions(NamedTuple):
    """How a graph is prepared for a model.

    Attributes:
      first_product: the constant product of the first layer, computed once with the data (see
        `graphs.first_product`): 'symmetric' for GCN, 'mean' for GraphSAGE, 'none' for GAT.
      clusters: number of clusters that the graph is cut into. Batches are unions of clusters
        (Cluster-GCN; Chiang et al., KDD 2019).
      layers: with one cluster, training is restricted to the training nodes' receptive field of
        this depth; with a first product, layer by layer (`core.graphs.Layered`). None keeps all
        nodes, which norms over all nodes need.
      sparse_below: with one cluster, features with a smaller share of nonzeros are stored as a
        `SparseMatrix`, without a first product. The share below which this pays depends on the
        machine.
      layer_nodes: number of nodes sampled for every layer below a batch of training nodes
        (`tasks.layer_sampling`). Examples are then training nodes. 0: examples are clusters.
      projection: number of random projections that replace the features (`graphs.project`). 0 keeps
        the features.
      seed: of the projection.
    """

    first_product: str = "none"
    clusters: int = 1
    layers: int | None = None
    sparse_below: float = 0.0
    layer_nodes: int = 0
    projection: int = 0
    seed: int = 0


def make_graph_dataset(
    raw: RawGraph,
    name: str,
    *,
    source: str,
    options: GraphOptions,
    shards: Callable[[np.ndarray, int], Shards],
    cache: str = "",
) -> Dataset:
    """Checks a raw graph, makes its edges symmetric, and lays it out for training and evaluation.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      options: what the model needs.
      shards: (labels of the examples, num_workers) -> Shards.
      cache: folder that keeps the clusters; '' keeps none.

    Raises:
      DataError: the arrays do not fit together, or a split is empty.
      ValueError: the options exclude each other.
    """
    raw = tidy(raw)
    splits = check(raw, source)
    _check_options(options, int(splits.train.sum()), source)
    adjacency, edge_notes = adjacency_of(raw)
    features_NxD = project(raw.features_NxD, options.projection, options.seed)
    num_classes, label_N, class_notes = _classes(raw, splits.train)
    node_N, degree_N = np.arange(len(label_N)), np.diff(adjacency.indptr)
    graph = NodeGraph(node_N, adjacency, features_NxD, label_N, degree_N)
    digest = fingerprint(raw)
    cut = functools.partial(clusters_of, num_clusters=options.clusters, cache=cache, name=digest)
    split_arrays = _split_arrays(graph, splits, options, raw.inductive, cut)
    examples, labels, common = _examples(split_arrays, splits, options)
    cut_notes = _cut_notes(options, split_arrays["test"], split_arrays["train"])
    size_notes = {"nodes": len(label_N), "edges": int(adjacency.nnz)}
    return Dataset(
        name=name,
        **examples,
        num_classes=num_classes,
        mean=0.0,
        std=1.0,
        fingerprint=_fingerprint(digest, cut_notes.get("cut_sha256", "")),
        shards=functools.partial(shards, labels),
        notes={**raw.notes, **edge_notes, **size_notes, **cut_notes, **class_notes},
        task="node_classification",
        example_shape=features_NxD.shape[1:],
        common=common,
        warnings=_warnings(raw, splits, name),
    )


def _warnings(raw: RawGraph, splits: Splits, name: str) -> tuple[str, ...]:
    """Warnings about the graph, one line each."""
    label_N, rows = raw.labels_N, sampled(raw.features_NxD, raw.features_NxD.shape[1:])
    train_N, *others = (label_N[mask_N] for mask_N in splits)
    named: dict[str, np.ndarray] = dict(zip(("validation", "test"), others))
    return (
        *untrained_classes(train_N, named, name),
        *(() if raw.num_classes else unused_labels((train_N, *others), name)),
        *unlike_scales(rows, name, "standardise every feature before you save the graph"),
    )


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
            f"layer_nodes={options.layer_nodes} needs clusters=1 and a first_product, which gives "
            f"the sampling weights, not clusters={options.clusters} and "
            f"first_product={options.first_product!r}"
        )


def _classes(raw: RawGraph, train_N: np.ndarray) -> tuple[int, np.ndarray, dict[str, int]]:
    """(C, int[N] labels from 0 to C - 1, notes for records).

    Nodes outside all splits may have any label. They get label 0, so that their unused loss is
    finite.
    """
    num_classes = raw.num_classes or int(raw.labels_N[train_N].max()) + 1
    untrained = num_classes - len(np.unique(raw.labels_N[train_N]))
    label_N = np.where((raw.labels_N >= 0) & (raw.labels_N < num_classes), raw.labels_N, 0)
    return num_classes, label_N, {"classes without a training node": untrained} if untrained else {}


def _split_arrays(
    graph: NodeGraph,
    splits: Splits,
    options: GraphOptions,
    inductive: bool,
    cut: Callable[..., np.ndarray],
) -> dict[str, SplitArrays]:
    """The arrays of every split. Evaluation has all nodes; training may use fewer."""

    def lay_out(graph: NodeGraph) -> SplitArrays:
        return full_graph(graph) if options.clusters == 1 else clusters(graph, cut(graph.adjacency))

    sparse = not inductive and _stores_sparse(graph.features, options)
    product = "none" if sparse else options.first_product
    ready = graph.with_first_product(product)._replace(has_sparse_features=sparse)
    training = whole = lay_out(ready)
    if inductive:
        seen = graph.isolated(np.flatnonzero(splits.train))
        training = lay_out(seen.with_first_product(options.first_product))
    elif options.layers is not None and options.clusters == 1:
        training = _training_field(ready, splits.train, options.layers, options)
    return {"train": training, "validation": whole, "test": whole}


def _stores_sparse(features_NxD: np.ndarray, options: GraphOptions) -> bool:
    if options.clusters > 1 or options.layer_nodes:  # batches gather rows, so these stay dense
        return False
    return bool(np.count_nonzero(features_NxD) < options.sparse_below * features_NxD.size)


def _training_field(
    graph: NodeGraph, train_N: np.ndarray, layers: int, options: GraphOptions
) -> SplitArrays:
    """What the training loss reads; first products and degrees are those of the full graph."""
    has_product = options.first_product != "none"
    depth = layers - (has_product and not graph.has_sparse_features)
    if not has_product or options.layer_nodes:
        return receptive_field(graph, train_N, depth)
    matrix = propagation(options.first_product, graph.adjacency)
    return receptive_field_by_layer(graph, matrix, train_N, depth)


def _examples(
    split_arrays: dict[str, SplitArrays], splits: Splits, options: GraphOptions
) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """(each split's examples, labels of the training examples, each split's common arrays)."""
    examples, common = {}, {}
    for part, split in split_arrays.items():
        counted_N = getattr(splits, part)[split.node_N].astype(np.float32)
        common[part] = {**split.arrays, "counted_N": counted_N}
        num_clusters = len(split.arrays["start"]) - 1
        examples[part] = {"cluster": np.arange(num_clusters, dtype=np.int32)}
    labels = examples["train"]["cluster"]  # clusters have no labels
    if options.layer_nodes:
        train = common["train"]
        examples["train"] = {"node": np.flatnonzero(train["counted_N"]).astype(np.int32)}
        train |= _sampling_weights(options.first_product, train["graph"].degree_N)
        labels = train["label_N"][examples["train"]["node"]]
    return examples, labels, common


def _sampling_weights(kind: str, degree_N: np.ndarray) -> dict[str, np.ndarray]:
    """The propagation matrix P of `kind` in three vectors, for `tasks.layer_sampling`.

    P_ji is take_j give_i between neighbours, and self_j on the diagonal.
    """
    if kind == "mean":
        take_N = 1 / np.maximum(degree_N, 1)
        give_N, self_N = np.ones(len(degree_N)), np.zeros(len(degree_N))
    else:
        take_N = give_N = 1 / np.sqrt(degree_N + 1)
        self_N = 1 / (degree_N + 1)
    weights = {"take_N": take_N, "give_N": give_N, "self_N": self_N}
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _cut_notes(options: GraphOptions, whole: SplitArrays, training: SplitArrays) -> dict[str, Any]:
    """What records say about how the graph was prepared.

    A digest of the cut is recorded because batches depend on the cut.
    """
    optional = {"layer_nodes": options.layer_nodes, "projection": options.projection}
    notes = {"clusters": options.clusters} | {k: value for k, value in optional.items() if value}
    if options.clusters == 1:
        return notes
    digest = hashlib.sha256()
    for split in (whole, training):
        for array in (split.node_N, split.arrays["start"]):
            digest.update(array.astype(np.int64).tobytes())
    return notes | {
        "cut": cutting_method().__name__,
        "parts": len(whole.arrays["start"]) - 1,
        "cut_sha256": digest.hexdigest(),
    }


def _fingerprint(data: str, cut: str) -> str:
    """SHA-256 of data and cut: a run whose graph is cut differently sees other batches."""
    return hashlib.sha256(f"{data} {cut}".encode()).hexdigest() if cut else data
