"""Classification of the nodes of a graph.

An example is a cluster of nodes, and a batch is the graph of a union of clusters:

- One cluster holds the whole graph: full-batch training.
- Several clusters in a batch keep the edges between them, as in Cluster-GCN (Chiang et al., KDD
  2019).
- All clusters at once are the whole graph again. So a large evaluation batch evaluates on the full
  graph, and a small one on parts of it, for models that are too wide for the full graph (GIST;
  Wolfe et al., 2023, appendix A.5).

With `layer_nodes`, a training example is a training node instead, and nodes are drawn for the
layers below it (`layer_sampling`). Evaluation stays the same.
"""

from typing import Any

import jax.numpy as jnp
import optax

from ist_jax.core.graphs import Graph
from ist_jax.core.model import Model
from ist_jax.core.task import Sums, Task
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.classification import MOST_ACCURATE, loss_and_accuracy
from ist_jax.tasks.layer_sampling import sample_layers


def _num_clusters(arrays: Any) -> int:
    return arrays["start"].shape[0] - 1


def _whole(arrays: Any) -> Batch:
    slot_N = jnp.zeros_like(arrays["label_N"])
    return {
        "x": arrays["graph"],
        "y": arrays["label_N"],
        "counted": arrays["counted_N"],
        "slot": slot_N,
    }


def _spans(start: Array, cluster_B: Array, slot: Array) -> tuple[Array, Array]:
    """(index_Bxn, inside_Bxn): the indices from start[c] to start[c + 1] of every cluster c.

    Blocks have equal size n; `inside_Bxn` is False at the padding of smaller clusters.
    """
    index_Bxn = start[cluster_B][:, None] + slot[None]
    inside_Bxn = index_Bxn < start[cluster_B + 1][:, None]
    return jnp.where(inside_Bxn, index_Bxn, 0), inside_Bxn


def _union(arrays: Any, cluster_B: Array) -> Batch:
    """The induced graph of a union of clusters.

    Node i of the batch's cluster b is node b * n + i. A cluster that is named twice counts once.
    """
    graph: Graph = arrays["graph"]
    num_clusters, width, size = _num_clusters(arrays), arrays["slot"].shape[0], cluster_B.shape[0]
    place_B = jnp.arange(size, dtype=jnp.int32)
    place_of = (
        jnp.full(num_clusters, size, jnp.int32).at[cluster_B].set(place_B)
    )  # size: not in this batch
    node_Bxn, inside_Bxn = _spans(arrays["start"], cluster_B, arrays["slot"])
    inside_Bxn &= (place_of[cluster_B] == place_B)[:, None]
    node_N, inside_N, none = node_Bxn.reshape(-1), inside_Bxn.reshape(-1), size * width

    def here(node: Array, inside: Array) -> Array:
        """Numbers in this graph of nodes of the whole graph; `none` for those not in it."""
        known = jnp.minimum(node, arrays["cluster_N"].shape[0] - 1)
        cluster = arrays["cluster_N"][known]
        found = inside[:, None] & (node == known) & (place_of[cluster] < size)
        return jnp.where(found, place_of[cluster] * width + known - arrays["start"][cluster], none)

    row_Bxr, in_row_Bxr = _spans(arrays["row_start"], cluster_B, arrays["row_slot"])
    row_R, in_row_R = row_Bxr.reshape(-1), in_row_Bxr & (place_of[cluster_B] == place_B)[:, None]
    receiver_Bxr = (
        place_B[:, None] * width + graph.receiver_R[row_Bxr] - arrays["start"][cluster_B][:, None]
    )
    receiver_Bxr = jnp.where(
        in_row_Bxr, receiver_Bxr, place_B[:, None] * width + width - 1
    )  # which keeps the order
    neighbours_NxW = here(graph.neighbours_NxW[node_N], inside_N)
    overflow_RxW, receiver_R = (
        here(graph.overflow_RxW[row_R], in_row_R.reshape(-1)),
        receiver_Bxr.reshape(-1),
    )
    degree_N = (
        (neighbours_NxW < none).sum(axis=1).at[receiver_R].add((overflow_RxW < none).sum(axis=1))
    )
    mask_N = inside_N.astype(graph.mask_N.dtype)
    features = graph.features[node_N] * mask_N.reshape((-1,) + (1,) * (graph.features.ndim - 1))
    x = Graph(
        features, degree_N.astype(mask_N.dtype), mask_N, neighbours_NxW, overflow_RxW, receiver_R
    )
    counted_N = arrays["counted_N"][node_N] * mask_N
    return {
        "x": x,
        "y": arrays["label_N"][node_N],
        "counted": counted_N,
        "slot": jnp.repeat(place_B, width),
    }


def _drawn_below(arrays: Any, node_B: Array, key: Key, layer_nodes: int, levels: int) -> Batch:
    """Nodes `node_B` and the nodes drawn below them. A node that is named twice counts once."""
    x = sample_layers(arrays, node_B, key, count=layer_nodes, levels=levels)
    slot_B = jnp.arange(node_B.shape[0], dtype=jnp.int32)
    last_N = jnp.zeros_like(arrays["label_N"]).at[node_B].max(slot_B)
    counted_B = (last_N[node_B] == slot_B).astype(arrays["counted_N"].dtype)
    return {"x": x, "y": arrays["label_N"][node_B], "counted": counted_B, "slot": slot_B}


def _num_examples(arrays: Any) -> int:
    return arrays["node" if "node" in arrays else "cluster"].shape[0]


def node_classification(layer_nodes: int = 0, levels: int = 0) -> Task:
    """A task over the arrays of `data.make_graph_dataset`.

    Args:
      layer_nodes: as in `data.GraphOptions`: nodes drawn for every layer; 0: none.
      levels: layers for which nodes are drawn: those whose sum over neighbours is not constant.
    """

    def batch(arrays: Any, index_B: Array, key: Key | None) -> Batch:
        if layer_nodes and key is not None and "node" in arrays:
            return _drawn_below(arrays, arrays["node"][index_B], key, layer_nodes, levels)
        if "node" in arrays or index_B.shape[0] >= _num_clusters(arrays):
            return _whole(arrays)
        return _union(arrays, arrays["cluster"][index_B])

    def loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_NxC = model.apply(params, batch["x"], key=key)
        loss_N = optax.softmax_cross_entropy_with_integer_labels(logits_NxC, batch["y"])
        return (batch["counted"] * loss_N).sum() / jnp.maximum(batch["counted"].sum(), 1), {}

    def predict(model: Model, params: Params, batch: Batch) -> Array:
        return model.apply(params, batch["x"])

    def metrics(logits_NxC: Array, batch: Batch, weight_B: Array) -> Sums:
        weight_N = batch["counted"] * weight_B[batch["slot"]]
        return loss_and_accuracy(logits_NxC, batch["y"], weight_N)

    return Task(batch, loss, predict, metrics, MOST_ACCURATE, _num_examples)
