"""Containers for graphs and constant sparse matrices. They hold arrays and compute nothing.

Shape letters beyond those of `ist_jax.core.types`: N counts nodes or matrix rows, D matrix columns
and R overflow rows; W is the width of a padded row.
"""

from typing import Any, NamedTuple

from ist_jax.core.types import AnyArray

Features = Any  # an array or a SparseMatrix


class SparseRows(NamedTuple):
    """The rows of a constant sparse matrix [N, D], stored in buckets.

    Each bucket pads its rows to one width. A row is stored in the narrowest bucket that fits its
    entries. Empty slots are zeros. `ist_jax.models.spmm.sparse_matrix` chooses the buckets.

    Attributes:
      row: for each bucket int32[n], the rows that it stores.
      column: for each bucket int32[W, n], the column of every entry; 0 in empty slots.
      value: for each bucket float[W, n], the value of every entry; 0 in empty slots.
      place_N: int32, the position of each row in the concatenation of all buckets.
    """

    row: tuple[AnyArray, ...]
    column: tuple[AnyArray, ...]
    value: tuple[AnyArray, ...]
    place_N: AnyArray


class SparseMatrix(NamedTuple):
    """A constant sparse matrix [N, D], stored by rows and by columns.

    The columns are stored as the rows of the transpose, by which gradients are multiplied.
    """

    rows: SparseRows
    columns: SparseRows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.place_N.shape[0], self.columns.place_N.shape[0]


class Graph(NamedTuple):
    """A graph of N nodes with symmetric edges: the input of a graph network.

    Every node has one row of W neighbours. Further neighbours are in overflow rows.

    Attributes:
      features: an array or a `SparseMatrix`: the node features [N, D], or a constant product of
        them that the first layer reads instead.
      degree_N: number of neighbours, without the node itself.
      mask_N: 1 for a node, 0 for padding.
      neighbours_NxW: int32, the neighbours of each node, N in empty slots.
      overflow_RxW: int32, further neighbours, N in empty slots.
      receiver_R: int32, sorted, the node that each overflow row belongs to.
    """

    features: Features
    degree_N: AnyArray
    mask_N: AnyArray
    neighbours_NxW: AnyArray
    overflow_RxW: AnyArray
    receiver_R: AnyArray


class Layered(NamedTuple):
    """The nodes that each layer of a graph network needs to compute the logits of some nodes.

    It replaces a `Graph`. The nodes of a layer come first among the nodes of the layer below.

    Attributes:
      features: of the nodes of the lowest layer, as in `Graph`.
      blocks: for each layer that sums over neighbours, lowest first, its propagation matrix
        [nodes of the layer, nodes of the layer below]. It is an array if nodes are sampled, and a
        `SparseMatrix` if it covers every node that the logits depend on.
    """

    features: Features
    blocks: tuple[AnyArray | SparseMatrix, ...]

    @property
    def mask_N(self) -> None:
        """None: a norm over all nodes is undefined where only some are present."""
        return None
