"""Classification of the nodes of a graph.

An example is a cluster of nodes. A batch is the graph of a union of clusters:

- One cluster is the full graph: full-batch training.
- A union of clusters keeps the edges between them, as in Cluster-GCN (Chiang et al., KDD 2019).
- All clusters together are the full graph again. So a large evaluation batch evaluates on the full
  graph, and a small one on parts of it, for models that are too wide for the full graph (GIST;
  Wolfe et al., 2023, appendix A.5).

With `layer_nodes`, a training example is a training node instead, and nodes are sampled for the
layers below it (`layer_sampling`). Evaluation stays the same.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from ist_jax.core.graphs import Graph
from ist_jax.core.model import Model
from ist_jax.core.task import Sums, Task
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.classification import (
    METRIC_INFO,
    MOST_ACCURATE,
    check_classes,
    classifier_summary,
    classifier_sums,
)
from ist_jax.tasks.inputs import predict
from ist_jax.tasks.layer_sampling import sample_layers


def _num_clusters(arrays: Any) -> int:
    return arrays["start"].shape[0] - 1


def _full_graph(arrays: Any) -> Batch:
    """The batch of all nodes. It has no "weight": all such batches have the same examples."""
    return {
        "x": arrays["graph"],
        "y": arrays["label_N"],
        "counted": arrays["counted_N"],
        "slot": jnp.zeros_like(arrays["label_N"]),
    }


def _spans(start: Array, cluster_B: Array, slot: Array) -> tuple[Array, Array]:
    """(index_Bxn, inside_Bxn): the indices from start[c] to start[c + 1] of each cluster c.

    Spans have equal length n. `inside_Bxn` is False at the padding of smaller clusters.
    """
    index_Bxn = start[cluster_B][:, None] + slot[None]
    inside_Bxn = index_Bxn < start[cluster_B + 1][:, None]
    return jnp.where(inside_Bxn, index_Bxn, 0), inside_Bxn


class _Union(NamedTuple):
    """A union of B clusters. Node i of cluster b in the batch has the number b * n + i.

    Attributes:
      arrays: those of the data set.
      cluster_B: int32[B], the clusters. One that occurs twice counts once.
      place_C: int32, the place of each cluster of the graph in `cluster_B`; B without one.
    """

    arrays: Any
    cluster_B: Array
    place_C: Array

    @property
    def width(self) -> int:
        """n, the number of nodes of the largest cluster."""
        return self.arrays["slot"].shape[0]

    @property
    def none(self) -> int:
        """The number that stands for no node."""
        return self.cluster_B.shape[0] * self.width

    @property
    def place_B(self) -> Array:
        return jnp.arange(self.cluster_B.shape[0], dtype=jnp.int32)

    def spans(self, start: str, slot: str) -> tuple[Array, Array, Array]:
        """(index_Bxn, inside_Bxn, counted_Bxn), without clusters that occur again."""
        index_Bxn, inside_Bxn = _spans(self.arrays[start], self.cluster_B, self.arrays[slot])
        is_counted_B = self.place_C[self.cluster_B] == self.place_B
        return index_Bxn, inside_Bxn, inside_Bxn & is_counted_B[:, None]

    def numbers(self, node_RxW: Array, counted_R: Array) -> Array:
        """The numbers of nodes of the full graph; `none` for those not in the union."""
        known = jnp.minimum(node_RxW, self.arrays["cluster_N"].shape[0] - 1)
        place = self.place_C[self.arrays["cluster_N"][known]]
        start = self.arrays["start"][self.arrays["cluster_N"][known]]
        is_here = counted_R[:, None] & (node_RxW == known) & (place < self.cluster_B.shape[0])
        return jnp.where(is_here, place * self.width + known - start, self.none)

    def overflow(self) -> tuple[Array, Array]:
        """(overflow_RxW, receiver_R) of the union's graph."""
        graph, place_Bx1 = self.arrays["graph"], self.place_B[:, None]
        row_Bxr, inside_Bxr, counted_Bxr = self.spans("row_start", "row_slot")
        start_Bx1 = self.arrays["start"][self.cluster_B][:, None]
        receiver_Bxr = place_Bx1 * self.width + graph.receiver_R[row_Bxr] - start_Bx1
        last_Bx1 = place_Bx1 * self.width + self.width - 1  # padding keeps receivers sorted
        receiver_Bxr = jnp.where(inside_Bxr, receiver_Bxr, last_Bx1)
        overflow_RxW = self.numbers(
            graph.overflow_RxW[row_Bxr.reshape(-1)], counted_Bxr.reshape(-1)
        )
        return overflow_RxW, receiver_Bxr.reshape(-1)


def _union_of(arrays: Any, cluster_B: Array) -> _Union:
    size = cluster_B.shape[0]
    place_C = jnp.full(_num_clusters(arrays), size, jnp.int32)
    return _Union(arrays, cluster_B, place_C.at[cluster_B].set(jnp.arange(size, dtype=jnp.int32)))


def _induced_graph(arrays: Any, cluster_B: Array) -> Batch:
    """The graph of a union of clusters, with all edges between its nodes."""
    union, graph = _union_of(arrays, cluster_B), arrays["graph"]
    node_Bxn, _, counted_Bxn = union.spans("start", "slot")
    node_N, inside_N = node_Bxn.reshape(-1), counted_Bxn.reshape(-1)
    mask_N = inside_N.astype(graph.mask_N.dtype)
    features = graph.features[node_N] * mask_N.reshape((-1,) + (1,) * (graph.features.ndim - 1))
    neighbours_NxW = union.numbers(graph.neighbours_NxW[node_N], inside_N)
    overflow_RxW, receiver_R = union.overflow()
    near_N, overflow_R = (
        (rows < union.none).sum(axis=1) for rows in (neighbours_NxW, overflow_RxW)
    )
    degree_N = near_N.at[receiver_R].add(overflow_R).astype(mask_N.dtype)
    counted_N = arrays["counted_N"][node_N] * mask_N
    return {
        "x": Graph(features, degree_N, mask_N, neighbours_NxW, overflow_RxW, receiver_R),
        "y": arrays["label_N"][node_N],
        "counted": counted_N,
        "slot": jnp.repeat(union.place_B, union.width),
        "weight": counted_N.sum(),  # clusters have different numbers of training nodes, or none
    }


def _sampled_below(arrays: Any, node_B: Array, key: Key, layer_nodes: int, levels: int) -> Batch:
    """The nodes `node_B`, and sampled nodes below them. A node that occurs twice counts once."""
    x = sample_layers(arrays, node_B, key, count=layer_nodes, levels=levels)
    slot_B = jnp.arange(node_B.shape[0], dtype=jnp.int32)
    last_N = jnp.zeros_like(arrays["label_N"]).at[node_B].max(slot_B)
    counted_B = (last_N[node_B] == slot_B).astype(arrays["counted_N"].dtype)
    return {
        "x": x,
        "y": arrays["label_N"][node_B],
        "counted": counted_B,
        "slot": slot_B,
        "weight": counted_B.sum(),
    }


def _num_examples(arrays: Any) -> int:
    return arrays["node" if "node" in arrays else "cluster"].shape[0]


def node_classification(layer_nodes: int = 0, levels: int = 0) -> Task:
    """The task over the arrays of `data.make_graph_dataset`.

    Args:
      layer_nodes: number of nodes sampled for every layer, as in `data.GraphOptions`; 0: none.
      levels: number of layers with sampled nodes: those whose sum over neighbours is not constant.
    """

    def batch(arrays: Any, index_B: Array, key: Key | None) -> Batch:
        if layer_nodes and key is not None and "node" in arrays:
            return _sampled_below(arrays, arrays["node"][index_B], key, layer_nodes, levels)
        if "node" in arrays or index_B.shape[0] >= _num_clusters(arrays):
            return _full_graph(arrays)
        return _induced_graph(arrays, arrays["cluster"][index_B])

    def loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_NxC = model.apply(params, batch["x"], key=key)
        loss_N = optax.softmax_cross_entropy_with_integer_labels(logits_NxC, batch["y"])
        mean = (batch["counted"] * loss_N).sum() / jnp.maximum(batch["counted"].sum(), 1)
        return mean, {"weight": batch["weight"]} if "weight" in batch else {}

    def metrics(logits_NxC: Array, batch: Batch, weight_B: Array) -> Sums:
        weight_N = batch["counted"] * weight_B[batch["slot"]]
        return classifier_sums(logits_NxC, batch["y"], weight_N)

    check = functools.partial(check_classes, labels="label_N")
    return Task(
        batch,
        loss,
        predict,
        metrics,
        MOST_ACCURATE,
        _num_examples,
        check,
        summary=classifier_summary,
        metric_info=METRIC_INFO,
    )
