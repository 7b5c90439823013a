"""Products of a constant sparse matrix and dense features: `spmm`, and how its matrices are stored.

`segment_sum_spmm` is the definition: gather, multiply, sum by row. `spmm` gives the same result
faster on a CPU:

* Rows with similar numbers of entries share a bucket, padded to one width W (`sparse_matrix`). A
  product gathers W feature rows per row, and adds them up in chunks (`num_chunks`). It never
  scatters.
* The gradient multiplies by the transpose, which is stored too, so it never scatters either.
* Under `vmap` over subnetworks, the features of all subnetworks are gathered as one wide row.
* XLA's CPU compiler recomputes an operand for every gather that reads it. A condition that is
  always true prevents this (`_computed_once`).
* The neighbours of a `Graph` are rows of one width, and overflow rows (`neighbour_rows`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.graphs import Graph, SparseMatrix, SparseRows
from ist_jax.core.types import Array

if TYPE_CHECKING:
    import scipy.sparse as sp

# Measured on a CPU. Costs are in units of one gathered entry.
_UNROLLED_GATHERS = 8  # gathers that are added up before a partial sum is written
_NEIGHBOUR_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_SEGMENT_COST = 30  # of adding an overflow row by the segment sum
_STEP_COST = 800  # of a bucket, and of each step of the loop over its entries


def spmm(matrix: Array | SparseMatrix | Graph, h_DxH: Array) -> Array:
    """[N, H]: the product of a matrix [N, D] and features.

    A `Graph` stands for its adjacency matrix, so the product sums over each node's neighbours. A
    sparse matrix and a graph are constants: only the features have a gradient.
    """
    if isinstance(matrix, Graph):
        return _neighbour_product(matrix, h_DxH)
    if isinstance(matrix, SparseMatrix):
        return _sparse_product(matrix, jnp.asarray(h_DxH))
    return matrix @ h_DxH


def segment_sum_spmm(matrix: SparseMatrix | Graph, h_DxH: Array) -> Array:
    """The definition of `spmm`, which tests compare it with."""
    row_E, column_E, value_E = _entries(matrix)
    num_rows = (matrix.degree_N if isinstance(matrix, Graph) else matrix.rows.place_N).shape[0]
    return jax.ops.segment_sum(value_E[:, None] * h_DxH[column_E], row_E, num_rows)


def _entries(matrix: SparseMatrix | Graph) -> tuple[Array, Array, Array]:
    """(row, column, value) of every slot. Empty slots have value 0."""
    flat = lambda arrays: jnp.concatenate([array.ravel() for array in arrays])
    if isinstance(matrix, Graph):
        num_nodes, width = matrix.neighbours_NxW.shape
        node_R = jnp.concatenate([jnp.arange(num_nodes, dtype=jnp.int32), matrix.receiver_R])
        column_E = flat((matrix.neighbours_NxW, matrix.overflow_RxW))
        is_edge_E = column_E < num_nodes
        return jnp.repeat(node_R, width), jnp.where(is_edge_E, column_E, 0), is_edge_E
    rows = matrix.rows
    row = [jnp.broadcast_to(row, column.shape) for row, column in zip(rows.row, rows.column)]
    return flat(row), flat(rows.column), flat(rows.value)


# --- the adjacency matrix of a graph ---


def _sum_rows(h_NxH: Array, index_RxW: Array) -> Array:
    """[R, H]: sums of the feature rows at each row of indices; index N is a row of zeros."""
    padded = jnp.concatenate([h_NxH, jnp.zeros_like(h_NxH[:1])])
    total = jnp.zeros((index_RxW.shape[0], h_NxH.shape[1]), h_NxH.dtype)

    def add(total: Array, index_R: Array) -> tuple[Array, None]:
        return total + padded[index_R], None

    unroll = min(_UNROLLED_GATHERS, index_RxW.shape[1])
    return jax.lax.scan(add, total, index_RxW.T, unroll=unroll)[0]


def _neighbour_sum(graph: Graph, h_NxH: Array) -> Array:
    total = _sum_rows(h_NxH, graph.neighbours_NxW)
    if not graph.receiver_R.shape[0]:
        return total
    overflow_RxH = _sum_rows(h_NxH, graph.overflow_RxW)
    return total + jax.ops.segment_sum(
        overflow_RxH, graph.receiver_R, h_NxH.shape[0], indices_are_sorted=True
    )


@jax.custom_vjp
def _neighbour_product(graph: Graph, h_NxH: Array) -> Array:
    """A h. Edges are symmetric, so A equals its transpose, and the gradient is the same sum."""
    return _neighbour_sum(graph, h_NxH)


_neighbour_product.defvjp(
    lambda graph, h_NxH: (_neighbour_sum(graph, h_NxH), graph),
    lambda graph, g_NxH: (None, _neighbour_sum(graph, g_NxH)),
)


def row_width(degree_N: np.ndarray) -> int:
    """The width of neighbour rows at which gathers and segment sums together cost least."""
    overflow = lambda width: np.maximum(-(-degree_N // width) - 1, 0).sum()
    cost = lambda width: len(degree_N) * width + overflow(width) * (width + _SEGMENT_COST)
    return min(_NEIGHBOUR_WIDTHS, key=cost)


def neighbour_rows(adjacency: "sp.csr_matrix") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """neighbours_NxW, overflow_RxW and receiver_R of a `Graph` with this adjacency matrix."""
    size, count_N = adjacency.shape[0], np.diff(adjacency.indptr)
    width = row_width(count_N)
    row_E = np.repeat(np.arange(size), count_N)
    place_E = np.arange(adjacency.nnz) - np.repeat(adjacency.indptr[:-1], count_N)
    overflow_N = np.maximum(-(-count_N // width) - 1, 0)
    start_N = np.cumsum(overflow_N) - overflow_N
    fits = place_E < width
    overflow_row_E = start_N[row_E[~fits]] + place_E[~fits] // width - 1
    neighbours_NxW = np.full((size, width), size, np.int32)
    overflow_RxW = np.full((overflow_N.sum(), width), size, np.int32)
    neighbours_NxW[row_E[fits], place_E[fits]] = adjacency.indices[fits]
    overflow_RxW[overflow_row_E, place_E[~fits] % width] = adjacency.indices[~fits]
    return neighbours_NxW, overflow_RxW, np.repeat(np.arange(size, dtype=np.int32), overflow_N)


# --- sparse matrices ---


def num_chunks(width: int) -> int:
    """Loop steps per row: 1 up to width 16; above, chunks of up to 8 (up to width 64) or 32."""
    return 1 if width <= 16 else -(-width // (8 if width <= 64 else 32))


def _chunked_width(width: int) -> int:
    """The smallest width for `width` entries that splits into equal chunks."""
    return num_chunks(width) * -(-width // num_chunks(width))


def bucket_widths(count_N: np.ndarray) -> np.ndarray:
    """The widths of the buckets for rows with `count_N` entries, ascending.

    Dynamic programming minimises the cost of padding and of the buckets together.
    """
    count, number = np.unique(np.maximum(count_N, 1), return_counts=True)
    width_K, kind = np.unique([_chunked_width(c) for c in count], return_inverse=True)
    rows_K = np.bincount(kind, number).astype(int)
    below = np.concatenate([[0], np.cumsum(rows_K)])  # below[k]: rows narrower than width_K[k]
    cost, first = np.zeros(len(width_K) + 1), np.zeros(len(width_K) + 1, int)
    for k in range(1, len(width_K) + 1):  # cost[k]: of all rows up to width_K[k - 1]
        width = width_K[k - 1]  # of the last bucket, which holds the widths from `first` on
        cost_by_first = cost[:k] + (below[k] - below[:k]) * width
        cost_by_first += _STEP_COST * (num_chunks(width) + 1)
        first[k] = cost_by_first.argmin()
        cost[k] = cost_by_first[first[k]]
    chosen, k = [], len(width_K)
    while k:
        chosen.append(width_K[k - 1])
        k = first[k]
    return np.array(chosen[::-1])


def _sparse_rows(matrix: "sp.csr_matrix") -> SparseRows:
    count_N = np.diff(matrix.indptr)
    widths = bucket_widths(count_N)
    bucket_N = np.searchsorted(widths, count_N)
    row = [np.flatnonzero(bucket_N == k).astype(np.int32) for k in range(len(widths))]
    # entry -1, the appended zero, pads rows
    column = np.append(matrix.indices, 0).astype(np.int32)
    value = np.append(matrix.data, 0).astype(np.float32)
    entries = []
    for row_n, width in zip(row, widths):
        slot_Wx1 = np.arange(width)[:, None]
        has_entry = slot_Wx1 < count_N[row_n]
        entries.append(np.where(has_entry, matrix.indptr[row_n] + slot_Wx1, -1))
    return SparseRows(
        tuple(row),
        tuple(column[entry] for entry in entries),
        tuple(value[entry] for entry in entries),
        np.argsort(np.concatenate(row)).astype(np.int32),
    )


def sparse_matrix(matrix: "np.ndarray | sp.csr_matrix") -> SparseMatrix:
    """The float32 `SparseMatrix`, of NumPy arrays, of a dense or SciPy matrix."""
    import scipy.sparse as sp

    matrix = sp.csr_matrix(matrix)
    return SparseMatrix(_sparse_rows(matrix), _sparse_rows(matrix.T.tocsr()))


def _computed_once(f: Callable[..., Any], index: Array, *arguments: Any) -> Any:
    """f(*arguments). On a CPU, it is computed completely before anything reads it.

    XLA's CPU compiler ignores optimisation barriers, but never moves a computation out of a
    conditional. `index` is at least 0, so the condition is always true; the compiler cannot know.
    """
    shapes = jax.eval_shape(f, *arguments)

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def on_cpu(index: Array, *arguments: Any) -> Any:
        return jax.lax.cond(index >= 0, f, never, *arguments)

    def elsewhere(_: Array, *arguments: Any) -> Any:
        return f(*arguments)

    return jax.lax.platform_dependent(index, *arguments, cpu=on_cpu, default=elsewhere)


def _bucket_product(value_WxnxS: Array, column_Wxn: Array, h_DxSxH: Array) -> Array:
    """[n, S, H]: the products of one bucket's rows, for all subnetworks.

    The subnetwork axis of values or features may have length 1, if all subnetworks share them.
    """
    num_rows, num_features, width = h_DxSxH.shape
    num_subnets = max(value_WxnxS.shape[2], num_features)
    # a shared matrix multiplies the features of all subnetworks as one wide row
    shape = (1, num_subnets * width) if value_WxnxS.shape[2] == 1 else (num_subnets, width)
    h = h_DxSxH.reshape(num_rows, *shape) if num_features == num_subnets else h_DxSxH

    def add(total: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        value_nxS, column_n = entry
        return total + value_nxS[:, :, None] * h[column_n], None

    total = jnp.zeros((column_Wxn.shape[1], *shape), h.dtype)
    chunk = -(-len(column_Wxn) // num_chunks(len(column_Wxn)))
    entries = value_WxnxS.astype(h.dtype), column_Wxn
    total, _ = jax.lax.scan(add, total, entries, unroll=chunk)
    return total.reshape(-1, num_subnets, width)


def _product_of_all(rows: SparseRows, values: Sequence[Array], h_DxSxH: Array) -> Array:
    """[N, S, H]: the products of all rows. `values` has [W, n, S] for each bucket."""

    def products(values: Sequence[Array], columns: Sequence[Array], h: Array) -> list[Array]:
        return [_bucket_product(*bucket, h) for bucket in zip(values, columns)]

    index = rows.place_N[0]
    sums = jnp.concatenate(_computed_once(products, index, list(values), rows.column, h_DxSxH))
    return _computed_once(lambda sums, place_N: sums[place_N], index, sums, rows.place_N)


@jax.custom_batching.custom_vmap
def _row_product(rows: SparseRows, h_DxH: Array) -> Array:
    return _product_of_all(rows, [value[:, :, None] for value in rows.value], h_DxH[:, None])[:, 0]


@_row_product.def_vmap
def _row_product_of_all(
    size: int, is_batched: Any, rows: SparseRows, h: Array
) -> tuple[Array, bool]:
    """All subnetworks at once: gathering a wide row costs no more than gathering a narrow one."""
    del size
    batched_rows, batched_h = is_batched
    assert not any(jax.tree.leaves(batched_rows._replace(value=()))), "subnetworks share one graph"
    values = [
        jnp.moveaxis(value, 0, -1) if batched else value[:, :, None]
        for value, batched in zip(rows.value, batched_rows.value)
    ]
    h_DxSxH = jnp.moveaxis(h, 0, 1) if batched_h else h[:, None]
    return jnp.moveaxis(_product_of_all(rows, values, h_DxSxH), 1, 0), True


@jax.custom_vjp
def _sparse_product(matrix: SparseMatrix, h_DxH: Array) -> Array:
    return _row_product(matrix.rows, h_DxH)


_sparse_product.defvjp(
    lambda matrix, h_DxH: (_row_product(matrix.rows, h_DxH), matrix),
    lambda matrix, g_NxH: (None, _row_product(matrix.columns, g_NxH)),
)
