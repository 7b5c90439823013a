"""Operations and memory traffic of a step of a sub-GCN, by arithmetic."""

import numpy as np

from ist_jax.core.graphs import SparseMatrix
from ist_jax.data import Dataset


def entries(matrix: SparseMatrix) -> int:
    """Of a sparse matrix, those that are not zero."""
    return sum(map(np.count_nonzero, matrix.rows.value))


def _sums(dataset: Dataset, width: int) -> list[tuple[SparseMatrix, int]]:
    """(sparse matrix, width of its factor) of a step; the narrower of logits and last features."""
    graph = dataset.arrays("train")["graph"]
    first = (graph.features,) if isinstance(graph.features, SparseMatrix) else ()
    *below, last = graph.blocks
    return [(matrix, width) for matrix in (*first, *below)] + [
        (last, min(width, dataset.num_classes))
    ]


def _products(dataset: Dataset, width: int) -> list[tuple[int, int, int, int]]:
    """(rows, width before, width after, number of products) of dense matrices, both directions.

    Constant matrices have no gradient.
    """
    graph, classes = dataset.arrays("train")["graph"], dataset.num_classes
    first = [] if isinstance(graph.features, SparseMatrix) else [(*graph.features.shape, width, 2)]
    middle, last = graph.blocks[-2:]
    narrower = middle.shape[0] if classes < width else last.shape[0]  # what is narrower is summed
    return [*first, (middle.shape[0], width, width, 3), (narrower, width, classes, 3)]


def flops(dataset: Dataset, hidden: int, num_subnets: int) -> float:
    """Multiplications and additions of a step of one sub-GCN, forward and backward.

    Matrix products, and sums over neighbours.
    """
    width = hidden // num_subnets
    products = sum(
        rows * before * after * count for rows, before, after, count in _products(dataset, width)
    )
    return 2.0 * (
        products + sum(2 * entries(matrix) * wide for matrix, wide in _sums(dataset, width))
    )


def moved(dataset: Dataset, hidden: int, num_subnets: int) -> float:
    """Least bytes that a step of one sub-GCN reads and writes, if no cache keeps any.

    Rows that sums add up and make, forward and backward; inputs and outputs of dense products;
    hidden features between them; parameters, gradients and Adam's moments.
    """
    width = hidden // num_subnets
    middle, last = dataset.arrays("train")["graph"].blocks[-2:]
    sums = sum(
        (2 * entries(matrix) + sum(matrix.shape)) * wide for matrix, wide in _sums(dataset, width)
    )
    products = sum(
        rows * (before + after) * count for rows, before, after, count in _products(dataset, width)
    )
    between = (
        5 * (middle.shape[1] + last.shape[1]) * width
    )  # read and written forward; gradient and value read, one written
    parameters = (
        dataset.spec.example_shape[0] * width
        + width
        + width * width
        + width
        + (width + 1) * dataset.num_classes
    )
    return 4.0 * (sums + products + between + 8 * parameters)
