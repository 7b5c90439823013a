"""Nodes drawn layer by layer, by importance (LADIES; Zou et al., NeurIPS 2019, section 3).

Below the nodes of a layer come themselves and `count` others, drawn by what those take from them: node i by the sum over j of
P_ji^2, P the normalised adjacency matrix. Unlike the paper's, draws are without replacement and of a fixed number (priority
sampling; Duffield, Lund and Thorup, JACM 2007): a node that was drawn stands for others that were not, so that sums over
neighbours are right in expectation, and exact if all are drawn; rows are not normalised again, which would undo that. It all
happens inside the compiled step, in work of the order of the edges.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Graph, Key, Layered


def _received(value_N: Array, graph: Graph) -> Array:
    """[N]: the sum of values over every node's neighbours."""
    padded = jnp.concatenate([value_N, jnp.zeros_like(value_N[:1])])
    total_N = padded[graph.neighbours_NxW].sum(axis=1)
    return total_N.at[graph.receiver_R].add(
        padded[graph.overflow_RxW].sum(axis=1), indices_are_sorted=True
    )


def drawn(importance_N: Array, count: int, key: Key) -> tuple[Array, Array]:
    """Distinct nodes, the likelier the more important: (node_M, weight_M), M the smaller of `count` and N.

    For any values, the sum of weight x value over the nodes drawn is in expectation that of values over all nodes of positive
    importance. Where there are fewer of these, the rest of the draws name node N, with weight 0.
    """
    size = importance_N.shape[0]
    priority_N = importance_N / (
        1 - jax.random.uniform(key, (size,), importance_N.dtype)
    )  # of (0, 1], not [0, 1)
    highest, node_M = jax.lax.top_k(priority_N, min(count + 1, size))
    limit, node_M = highest[count] if count < size else 0.0, node_M[:count]
    chosen_M = importance_N[node_M]
    is_drawn_M = chosen_M > 0
    weight_M = jnp.maximum(chosen_M, limit) / jnp.where(is_drawn_M, chosen_M, 1)
    return jnp.where(is_drawn_M, node_M, size), jnp.where(is_drawn_M, weight_M, 0)


def _block(graph: Graph, upper_B: Array, lower_M: Array) -> Array:
    """[B, M]: 1 where a lower node is an upper one's neighbour."""
    size, columns = graph.mask_N.shape[0], lower_M.shape[0]

    def slots(nodes: Array) -> Array:
        """Where a node lies in `nodes`, far outside if it does not."""
        own = jnp.arange(nodes.shape[0], dtype=jnp.int32)
        # the last of several, by max: which of them `set` leaves is not said, and differs between devices
        last = jnp.full(size + 1, -1, jnp.int32).at[nodes].max(jnp.where(nodes < size, own, -1))
        return jnp.where(last < 0, size + columns, last)

    below, above = slots(lower_M), slots(upper_B)
    row_B = jnp.arange(upper_B.shape[0])
    near_BxW = graph.neighbours_NxW.at[upper_B].get(mode="fill", fill_value=size)
    found = jnp.zeros((upper_B.shape[0], columns), graph.mask_N.dtype)
    found = found.at[row_B[:, None], below[near_BxW]].add(1, mode="drop")
    return found.at[above[graph.receiver_R][:, None], below[graph.overflow_RxW]].add(1, mode="drop")


def sampled(
    arrays: Mapping[str, Any], node_B: Array, key: Key, *, count: int, levels: int
) -> Layered:
    """Nodes of `levels` layers below the nodes `node_B`, `count` new ones in each.

    Args:
      arrays: of a graph data set with `GraphOptions.layer_nodes`: P_ji is take_j give_i between neighbours, own_j for j = i.
      node_B: whose logits are asked for.
      key: of this step.
      count: new nodes of a layer.
      levels: layers whose sums over neighbours are not constant.
    """
    graph, take_N, give_N = arrays["graph"], arrays["take_N"], arrays["give_N"]
    of = lambda value_N, node: value_N.at[node].get(mode="fill", fill_value=0)
    upper, blocks = node_B, []
    for level in range(levels):
        inside_N = jnp.zeros_like(take_N).at[upper].set(1, mode="drop")
        importance_N = (1 - inside_N) * give_N**2 * _received(inside_N * take_N**2, graph)
        node_M, weight_M = drawn(importance_N, count, jax.random.fold_in(key, level))
        lower = jnp.concatenate([upper, node_M])
        weight = jnp.concatenate([jnp.ones(upper.shape, weight_M.dtype), weight_M])
        block = (
            of(take_N, upper)[:, None]
            * _block(graph, upper, lower)
            * (of(give_N, lower) * weight)[None]
        )
        blocks.append(block + jnp.eye(*block.shape) * of(arrays["own_N"], upper)[:, None])
        upper = lower
    return Layered(of(graph.features, upper), tuple(reversed(blocks)))
