"""Importance sampling of nodes, layer by layer (LADIES; Zou et al., NeurIPS 2019, section 3).

The layer below has the same nodes and `count` sampled ones. The importance of node i is the sum of
P_ji^2 over the layer's nodes j, where P is the normalised adjacency matrix. Unlike in the paper,
nodes are drawn without replacement, and their number is fixed (priority sampling; Duffield, Lund
and Thorup, JACM 2007). The weight of a sampled node accounts for those that were not sampled. So
sums over neighbours are unbiased, and exact if all nodes are drawn. Rows are not normalised again,
since that would bias them. Sampling is part of the compiled step, and its work grows with the
number of edges.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.graphs import Graph, Layered
from ist_jax.core.types import Array, Key


def sample_layers(
    arrays: Mapping[str, Any], node_B: Array, key: Key, *, count: int, levels: int
) -> Layered:
    """The nodes `node_B`, and sampled nodes for every layer below.

    Args:
      arrays: those of a graph data set with `GraphOptions.layer_nodes`. They factor P: P_ji is
        take_j give_i between neighbours, and P_jj is self_j.
      node_B: the nodes whose logits are computed.
      key: PRNG key of the step.
      count: number of sampled nodes per layer.
      levels: number of layers whose sums over neighbours are not part of the data.
    """
    graph, take_N, give_N = arrays["graph"], arrays["take_N"], arrays["give_N"]
    upper, blocks = node_B, []
    for level in range(levels):
        is_inside_N = jnp.zeros_like(take_N).at[upper].set(1, mode="drop")
        taken_N = _neighbour_sum(is_inside_N * take_N**2, graph)
        importance_N = (1 - is_inside_N) * give_N**2 * taken_N
        node_M, weight_M = draw_nodes(importance_N, count, jax.random.fold_in(key, level))
        lower = jnp.concatenate([upper, node_M])
        weight = jnp.concatenate([jnp.ones(upper.shape, weight_M.dtype), weight_M])
        takes, gives = _gather(take_N, upper)[:, None], (_gather(give_N, lower) * weight)[None]
        block = takes * _adjacency_block(graph, upper, lower) * gives
        blocks.append(block + jnp.eye(*block.shape) * _gather(arrays["self_N"], upper)[:, None])
        upper = lower
    return Layered(_gather(graph.features, upper), tuple(reversed(blocks)))


def draw_nodes(importance_N: Array, count: int, key: Key) -> tuple[Array, Array]:
    """(node_M, weight_M): distinct nodes; the more important a node is, the likelier it is drawn.

    M is the smaller of `count` and N. For any values, the expected sum of weight x value over the
    drawn nodes is the sum of values over all nodes with positive importance. If there are fewer
    than M such nodes, the other draws are node N with weight 0.
    """
    size = importance_N.shape[0]
    uniform_N = 1 - jax.random.uniform(key, (size,), importance_N.dtype)  # in (0, 1]
    highest, node_M = jax.lax.top_k(importance_N / uniform_N, min(count + 1, size))
    limit, node_M = highest[count] if count < size else 0.0, node_M[:count]
    importance_M = importance_N[node_M]
    is_drawn_M = importance_M > 0
    weight_M = jnp.maximum(importance_M, limit) / jnp.where(is_drawn_M, importance_M, 1)
    return jnp.where(is_drawn_M, node_M, size), jnp.where(is_drawn_M, weight_M, 0)


def _gather(value_N: Array, node: Array) -> Array:
    """The values of `node`; 0 for node N."""
    return value_N.at[node].get(mode="fill", fill_value=0)


def _neighbour_sum(value_N: Array, graph: Graph) -> Array:
    """[N]: the sum of values over each node's neighbours."""
    padded = jnp.concatenate([value_N, jnp.zeros_like(value_N[:1])])
    total_N = padded[graph.neighbours_NxW].sum(axis=1)
    return total_N.at[graph.receiver_R].add(
        padded[graph.overflow_RxW].sum(axis=1), indices_are_sorted=True
    )


def _adjacency_block(graph: Graph, upper_B: Array, lower_M: Array) -> Array:
    """[B, M]: 1 where the lower node is a neighbour of the upper node, else 0."""
    size, columns = graph.mask_N.shape[0], lower_M.shape[0]
    above, below = _places(upper_B, size, columns), _places(lower_M, size, columns)
    row_B = jnp.arange(upper_B.shape[0])
    near_BxW = graph.neighbours_NxW.at[upper_B].get(mode="fill", fill_value=size)
    block = jnp.zeros((upper_B.shape[0], columns), graph.mask_N.dtype)
    block = block.at[row_B[:, None], below[near_BxW]].add(1, mode="drop")
    return block.at[above[graph.receiver_R][:, None], below[graph.overflow_RxW]].add(1, mode="drop")


def _places(nodes: Array, size: int, columns: int) -> Array:
    """int32[N + 1]: each node's place in `nodes`; size + columns (out of range) without one."""
    place = jnp.arange(nodes.shape[0], dtype=jnp.int32)
    place = jnp.where(nodes < size, place, -1)
    # a node that occurs twice gets its last place: `max` is deterministic there, `set` is not
    place_of = jnp.full(size + 1, -1, jnp.int32).at[nodes].max(place)
    return jnp.where(place_of < 0, size + columns, place_of)
