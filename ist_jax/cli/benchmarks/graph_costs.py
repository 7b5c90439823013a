"""Operations and memory traffic of a step of a sub-GCN, computed from shapes."""

import numpy as np

from ist_jax.core.graphs import SparseMatrix
from ist_jax.data import Dataset


def entries(matrix: SparseMatrix) -> int:
    """The number of nonzeros of a sparse matrix."""
    return sum(map(np.count_nonzero, matrix.rows.value))


def _sums(dataset: Dataset, width: int) -> list[tuple[SparseMatrix, int]]:
    """(sparse matrix, width of the features it multiplies) of every sum over neighbours in a step.

    The last sum is over logits or over hidden features, whichever are narrower.
    """
    graph = dataset.arrays("train")["graph"]
    first = (graph.features,) if isinstance(graph.features, SparseMatrix) else ()
    *below, last = graph.blocks
    return [(matrix, width) for matrix in (*first, *below)] + [
        (last, min(width, dataset.num_classes))
    ]


def _products(dataset: Dataset, width: int) -> list[tuple[int, int, int, int]]:
    """(rows, width before, width after, number of products) of every dense layer in a step.

    A layer has three products, forward and backward; two if its input is constant.
    """
    graph, classes = dataset.arrays("train")["graph"], dataset.num_classes
    first = [] if isinstance(graph.features, SparseMatrix) else [(*graph.features.shape, width, 2)]
    middle, last = graph.blocks[-2:]
    # the output layer comes before the last sum if logits are narrower, else after it
    narrower = middle.shape[0] if classes < width else last.shape[0]
    return [*first, (middle.shape[0], width, width, 3), (narrower, width, classes, 3)]


def flops(dataset: Dataset, hidden: int, num_subnets: int) -> float:
    """FLOPs of a step of one sub-GCN, forward and backward: dense products and neighbour sums."""
    width = hidden // num_subnets
    products = sum(
        rows * before * after * count for rows, before, after, count in _products(dataset, width)
    )
    return 2.0 * (
        products + sum(2 * entries(matrix) * wide for matrix, wide in _sums(dataset, width))
    )


def moved(dataset: Dataset, hidden: int, num_subnets: int) -> float:
    """The minimum of bytes that a step of one sub-GCN reads and writes without caches.

    They are the rows that neighbour sums read and write, forward and backward; inputs and outputs
    of dense products; hidden features between them; parameters, gradients and Adam's moments.
    """
    width = hidden // num_subnets
    middle, last = dataset.arrays("train")["graph"].blocks[-2:]
    sums = sum(
        (2 * entries(matrix) + sum(matrix.shape)) * wide for matrix, wide in _sums(dataset, width)
    )
    products = sum(
        rows * (before + after) * count for rows, before, after, count in _products(dataset, width)
    )
    # read and written forward; gradient and value read and one written backward
    between = 5 * (middle.shape[1] + last.shape[1]) * width
    parameters = (
        dataset.spec.example_shape[0] * width
        + width
        + width * width
        + width
        + (width + 1) * dataset.num_classes
    )
    return 4.0 * (sums + products + between + 8 * parameters)
