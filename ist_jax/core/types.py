"""Types that all packages share, and the legend of shape letters.

Arrays carry their shapes in their names (`kernel_DxH`, `indices_SxM`, `loss_SxJ`):

    S  subnetworks (workers)         B  examples of one local step of one worker
    M  unit slots of a group in one  D  input features
       subnetwork (padding included) H  hidden units
    J  local steps of a round        C  classes
    K  units that one owner and one  N  units of a group, or examples of a data set
       subnetwork can share          R  devices
    P  subnetworks on one device

An index equal to the size of its group (one past the end) is padding. Gathers fill in zeros for it,
and scatters drop it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Params = Any  # a pytree of arrays
Batch = Mapping[str, Array]
Metrics = Mapping[str, Array]  # what a round reports


def num_chunks(width: int) -> int:
    """In how many steps rows of so many entries are added up: 16 in one; of longer ones at most 8 at once, or 32."""
    return 1 if width <= 16 else -(-width // (8 if width <= 64 else 32))


class Rows(NamedTuple):
    """A constant sparse matrix [N, D]. Rows with like numbers of entries lie together, filled up to one width W, so that a
    product is W gathers of whole matrices for every width, and none of it is a scatter.

    Attributes:
      row: of every width, int32[n], which rows of the matrix.
      column, value: of every width, [W, n], their entries; 0 where there are fewer.
      place_N: int32, where a row of the matrix lies among those of all widths.
    """

    row: tuple[Array, ...]
    column: tuple[Array, ...]
    value: tuple[Array, ...]
    place_N: Array


class Sparse(NamedTuple):
    """A constant sparse matrix [N, D] and its transpose, by which gradients go."""

    rows: Rows
    columns: Rows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.place_N.shape[0], self.columns.place_N.shape[0]


class Graph(NamedTuple):
    """A graph of N nodes with symmetric edges, as graph networks take it.

    Neighbours lie in rows of W: every node has one of them, and what does not fit lies in overflow rows. A sum over them is W
    gathers of whole matrices and a short sum over segments, whatever the numbers of neighbours are.

    Attributes:
      features: [N, D] of every node, or what a model's first layer sums of them over neighbours; an array or `Sparse`.
      degree_N: number of neighbours of every node, the node itself not counted.
      mask_N: 1 for a node, 0 for padding.
      neighbours_NxW: int32, N where there is none.
      overflow_RxW: int32, further neighbours, N where there is none.
      receiver_R: int32, sorted, whose further neighbours they are.
    """

    features: Array | Sparse
    degree_N: Array
    mask_N: Array
    neighbours_NxW: Array
    overflow_RxW: Array
    receiver_R: Array


class Layered(NamedTuple):
    """Nodes layer by layer, as graph networks take them instead of a `Graph` where logits are asked of some nodes alone: every
    layer has those that the one above reads, and they are the first of those of the layer below.

    Attributes:
      features: of the lowest nodes, as of `Graph`.
      blocks: of every layer that sums over neighbours, the lowest first, [nodes of the layer, nodes of the layer below]: what
        each takes from each. Arrays where nodes were drawn; `Sparse` where they are all that the logits depend on.
    """

    features: Array | Sparse
    blocks: tuple[Array | Sparse, ...]

    @property
    def mask_N(self) -> None:
        """Norms over all nodes are not for some of them."""
        return None


Axes = tuple[str | None, ...]
Rules = Sequence[tuple[str, Axes | None]]  # (path regex, group per axis); None: no axis has a group
Indices = Mapping[str, Array]  # group -> int32[S, M]; for one subnetwork int32[M]
