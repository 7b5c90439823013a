"""What graph networks share: sums over neighbours, and normalisation over nodes and features."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Graph, Key, Layered, Rows, Sparse, num_chunks
from ist_jax.models.mlp import ACTIVATIONS

GRAPH_NORMS = ("none", "layer", "matrix")
_AT_ONCE = 8  # gathers that are added up before the sum is written; of narrow features, a sum is mostly that. Measured on a CPU


def _sum_rows(h_NxH: Array, index_RxW: Array) -> Array:
    """[R, H]: the sum of the rows of `h` that each row of indices names; N names a row of zeros."""
    padded = jnp.concatenate([h_NxH, jnp.zeros_like(h_NxH[:1])])
    total = jnp.zeros((index_RxW.shape[0], h_NxH.shape[1]), h_NxH.dtype)
    add = lambda total, index_R: (total + padded[index_R], None)
    return jax.lax.scan(add, total, index_RxW.T, unroll=min(_AT_ONCE, index_RxW.shape[1]))[0]


def _sum(h_NxH: Array, graph: Graph) -> Array:
    total = _sum_rows(h_NxH, graph.neighbours_NxW)
    if not graph.receiver_R.shape[0]:
        return total
    rest_RxH = _sum_rows(h_NxH, graph.overflow_RxW)
    return total + jax.ops.segment_sum(
        rest_RxH, graph.receiver_R, h_NxH.shape[0], indices_are_sorted=True
    )


@jax.custom_vjp
def neighbour_sum(h_NxH: Array, graph: Graph) -> Array:
    """[N, H]: A h, the sum over every node's neighbours.

    Edges are symmetric, so A is its own transpose: the gradient is the same sum, and not a scatter.
    """
    return _sum(h_NxH, graph)


neighbour_sum.defvjp(
    lambda h_NxH, graph: (_sum(h_NxH, graph), graph),
    lambda graph, g_NxH: (_sum(g_NxH, graph), None),
)


def _made_once(f: Callable[..., Any], some: Array, *arguments: Any) -> Any:
    """f(*arguments), on a CPU whole before anything reads it.

    XLA's CPU compiler makes an entry anew wherever it is gathered (it ignores barriers), but not across a conditional; `some`
    is an index, so that the condition always holds, which the compiler cannot know.
    """
    shapes = jax.eval_shape(f, *arguments)
    never = lambda *_: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    on_cpu = lambda some, *arguments: jax.lax.cond(some >= 0, f, never, *arguments)
    return jax.lax.platform_dependent(
        some, *arguments, cpu=on_cpu, default=lambda _, *arguments: f(*arguments)
    )


def _weighted_sum(value_WxnxS: Array, column_Wxn: Array, kernel_DxSxH: Array) -> Array:
    """[n, S, H]: the sum over W entries of a value times the row of the kernel that its column names."""
    num_rows, num_kernels, width = kernel_DxSxH.shape
    num_subnets = max(value_WxnxS.shape[2], num_kernels)
    # where all have one matrix, their kernels are one wide one
    shape = (1, num_subnets * width) if value_WxnxS.shape[2] == 1 else (num_subnets, width)
    kernel = kernel_DxSxH.reshape(num_rows, *shape) if num_kernels == num_subnets else kernel_DxSxH
    add = lambda total, entry: (total + entry[0][:, :, None] * kernel[entry[1]], None)
    total, entries = (
        jnp.zeros((column_Wxn.shape[1], *shape), kernel.dtype),
        (value_WxnxS.astype(kernel.dtype), column_Wxn),
    )
    total, _ = jax.lax.scan(
        add, total, entries, unroll=-(-len(column_Wxn) // num_chunks(len(column_Wxn)))
    )
    return total.reshape(-1, num_subnets, width)


def _beside(rows: Rows, values: Sequence[Array], kernel_DxSxH: Array) -> Array:
    """[N, S, H]: the products of S kernels that lie beside each other with a matrix each, whose values are [W, n, S]."""
    some = rows.place_N[0]
    of_width = lambda values, columns, kernel: [
        _weighted_sum(*one, kernel) for one in zip(values, columns)
    ]
    sums = jnp.concatenate(_made_once(of_width, some, list(values), rows.column, kernel_DxSxH))
    return _made_once(lambda sums, place_N: sums[place_N], some, sums, rows.place_N)


@jax.custom_batching.custom_vmap
def _times_rows(rows: Rows, kernel_DxH: Array) -> Array:
    return _beside(rows, [value[:, :, None] for value in rows.value], kernel_DxH[:, None])[:, 0]


@_times_rows.def_vmap
def _times_rows_of_all(size: int, is_batched: Any, rows: Rows, kernel: Array) -> tuple[Array, bool]:
    """All subnetworks at once: a gather takes as long a row as of one whole network, not S short ones."""
    del size
    in_rows, in_kernel = is_batched
    assert not any(jax.tree.leaves(in_rows._replace(value=()))), "subnetworks see one graph"
    beside = lambda value, batched: jnp.moveaxis(value, 0, -1) if batched else value[:, :, None]
    values = [beside(value, batched) for value, batched in zip(rows.value, in_rows.value)]
    kernel_DxSxH = jnp.moveaxis(kernel, 0, 1) if in_kernel else kernel[:, None]
    return jnp.moveaxis(_beside(rows, values, kernel_DxSxH), 1, 0), True


@jax.custom_vjp
def _times_sparse(matrix: Sparse, kernel_DxH: Array) -> Array:
    return _times_rows(matrix.rows, kernel_DxH)


_times_sparse.defvjp(
    lambda matrix, kernel_DxH: (_times_rows(matrix.rows, kernel_DxH), matrix),
    lambda matrix, g_NxH: (None, _times_rows(matrix.columns, g_NxH)),
)


def times(h_NxD: Array | Sparse, kernel_DxH: Array) -> Array:
    """[N, H]: the product of a matrix, dense or sparse, and a kernel; the gradient is the kernel's alone if it is sparse."""
    return (
        _times_sparse(h_NxD, jnp.asarray(kernel_DxH))
        if isinstance(h_NxD, Sparse)
        else h_NxD @ kernel_DxH
    )


def _hashed(index: Array, seed: Array) -> Array:
    """uint32 that look random, one per index and seed (the finaliser of MurmurHash3; A. Appleby)."""
    x = index.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) ^ seed
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _dropout(rate: float, key: Key) -> Callable[[Array, Array, Array], Array]:
    """(values, row, column) -> what is left of them; the fate of an entry is a hash of where it is."""
    seed_row, seed_column = jax.random.bits(key, (2,), jnp.uint32)
    limit = jnp.uint32(rate * 2**32)

    def kept(values: Array, row: Array, column: Array) -> Array:
        keep = _hashed(column, seed_column ^ _hashed(row, seed_row)) >= limit
        return jnp.where(keep, values / (1 - rate), 0)

    return kept


def drop_entries(features: Sparse, rate: float, key: Key) -> Sparse:
    """Dropout of the entries of sparse features, the same ones in the matrix and its transpose: neither looks the other up."""
    kept = _dropout(rate, key)

    def dropped(rows: Rows, is_transpose: bool) -> Rows:
        def of_width(row_n: Array, column: Array, value: Array) -> Array:
            row = jnp.broadcast_to(row_n, column.shape)
            return kept(value, *((column, row) if is_transpose else (row, column)))

        return rows._replace(value=tuple(map(of_width, rows.row, rows.column, rows.value)))

    return Sparse(dropped(features.rows, False), dropped(features.columns, True))


def dropped(h: Array | Sparse, rate: float, key: Key | None) -> Array | Sparse:
    """Dropout of features of nodes, the same ones dense or sparse; none without a key. Hashes cost a tenth of random bits."""
    if key is None or not rate:
        return h
    if isinstance(h, Sparse):
        return drop_entries(h, rate, key)
    row = jnp.arange(h.shape[0]).reshape(-1, *[1] * (h.ndim - 1))
    return _dropout(rate, key)(h, row, jnp.arange(h[0].size).reshape(1, *h.shape[1:]))


def dropped_in(model: nn.Module, h: Array | Sparse, layer: int) -> Array | Sparse:
    """What layer `layer` of a model reads of `h`, by its `dropout` and `input_dropout`."""
    key = (
        model.make_rng("dropout")
        if model.has_rng("dropout") and (layer or model.input_dropout)
        else None
    )
    return dropped(h, model.dropout, key)


def symmetric_mean(graph: Graph) -> Callable[[Array], Array]:
    """h -> D^-1/2 (A + I) D^-1/2 h, D the degrees with the node itself (Kipf and Welling, ICLR 2017, eq. 2)."""
    scale_Nx1 = (graph.mask_N * jax.lax.rsqrt(graph.degree_N + 1))[:, None]

    def propagate(h_NxH: Array) -> Array:
        scaled = h_NxH * scale_Nx1.astype(h_NxH.dtype)
        return (neighbour_sum(scaled, graph) + scaled) * scale_Nx1.astype(h_NxH.dtype)

    return propagate


def check_layers(graph: Graph | Layered, sums: int) -> None:
    """Raises ValueError if nodes layer by layer are of a model with another number of sums over neighbours."""
    if isinstance(graph, Layered) and len(graph.blocks) != sums:
        raise ValueError(
            f"the graph is laid out for {len(graph.blocks)} sums over neighbours, and the model has {sums}: "
            "GraphOptions.layers are the model's"
        )


def symmetric_means(graph: Graph | Layered, layers: int) -> list[Callable[[Array], Array]]:
    """`symmetric_mean` of every layer; the first one's is the identity if it was made with the data. Of nodes layer by layer,
    each has its own."""
    sums = layers if isinstance(graph.features, Sparse) else layers - 1
    check_layers(graph, sums)
    of_blocks = lambda blocks: [functools.partial(times, block) for block in blocks]
    means = (
        of_blocks(graph.blocks) if isinstance(graph, Layered) else [symmetric_mean(graph)] * sums
    )
    return [lambda h: h] * (layers - sums) + means


def with_neighbours(h_NxH: Array, graph: Graph | Layered, layer: int) -> Array:
    """[nodes of the layer, 2, H]: every node's features and the mean of its neighbours'; layers count from 0, but the first."""
    if isinstance(graph, Layered):
        block = graph.blocks[layer]
        return jnp.stack([h_NxH[: block.shape[0]], times(block, h_NxH)], axis=1)
    return jnp.stack([h_NxH, neighbour_mean(h_NxH, graph)], axis=1)


def neighbour_mean(h_NxH: Array, graph: Graph) -> Array:
    """[N, H]: the mean over every node's neighbours, 0 where there are none; of padding, nobody's neighbour, too."""
    share_Nx1 = (graph.mask_N / jnp.maximum(graph.degree_N, 1))[:, None].astype(h_NxH.dtype)
    return neighbour_sum(h_NxH, graph) * share_Nx1


def scaled(h: Array | Sparse, scales: Sequence[float], layer: int) -> Array | Sparse:
    """What layer `layer` reads, times its factor, if there are factors; `Sparse` features are no sum."""
    return h if not scales or scales[layer] == 1.0 else h * scales[layer]


def activated(h_NxH: Array, norm: str, activation: str, mask_N: Array | None) -> Array:
    """A hidden layer's norm and activation, in the order of the authors' scripts: 'layer' comes before it, 'matrix' after."""
    h_NxH = normalised(h_NxH, norm, mask_N) if norm == "layer" else h_NxH
    h_NxH = ACTIVATIONS[activation](h_NxH)
    return normalised(h_NxH, norm, mask_N) if norm == "matrix" else h_NxH


def normalised(h_NxH: Array, norm: str, mask_N: Array | None, epsilon: float = 1e-5) -> Array:
    """`h` with mean 0 and variance 1, without affine parameters.

    Args:
      h_NxH: features of N nodes.
      norm: 'layer', over the features of every node; 'matrix', over nodes and features together (the authors' small-scale
        release of GIST, gcn.py); or 'none'.
      mask_N: 1 for a node, 0 for padding, which does not count in 'matrix'; the others do not use it.
      epsilon: added to the variance.
    """
    if norm == "none":
        return h_NxH
    if norm == "layer":
        return _standardised(h_NxH, epsilon)
    weight_Nx1 = mask_N[:, None] / (jnp.maximum(mask_N.sum(), 1) * h_NxH.shape[1])
    average = lambda x: (weight_Nx1 * x).sum(keepdims=True)
    centred_NxH = h_NxH - average(h_NxH)
    return centred_NxH * jax.lax.rsqrt(average(centred_NxH**2) + epsilon)


def _mean(h_NxH: Array) -> Array:
    """[N, 1]: of every row; as a product, since XLA's CPU compiler adds up short rows two to four times slower than that."""
    sum_N = jnp.dot(h_NxH, jnp.ones(h_NxH.shape[1], h_NxH.dtype), precision="highest")
    return sum_N[:, None] / h_NxH.shape[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _standardised(h_NxH: Array, epsilon: float) -> Array:
    """Rows with mean 0 and variance 1; the gradient is written out, since it takes half of the passes over memory then."""
    return _standardised_with_scale(h_NxH, epsilon)[0]


def _standardised_with_scale(h_NxH: Array, epsilon: float) -> tuple[Array, tuple[Array, Array]]:
    centred_NxH = h_NxH - _mean(h_NxH)
    scale_Nx1 = jax.lax.rsqrt(_mean(centred_NxH**2) + epsilon)
    return (y_NxH := centred_NxH * scale_Nx1), (y_NxH, scale_Nx1)


def _standardised_gradient(epsilon: float, kept: tuple[Array, Array], g_NxH: Array) -> tuple[Array]:
    y_NxH, scale_Nx1 = kept
    return (scale_Nx1 * (g_NxH - _mean(g_NxH) - y_NxH * _mean(g_NxH * y_NxH)),)


_standardised.defvjp(_standardised_with_scale, _standardised_gradient)
