"""Sparse inputs, such as bags of words: padded rows, which a task makes dense batch by batch.

Every row has as many slots as the fullest row has entries. Unused slots hold the column D, one past
the end, and the value 0 (`core.types`).
"""

from typing import Any

import numpy as np

from ist_jax.core.types import CsrMatrix
from ist_jax.data.spec import Moment, as_moment


def is_sparse(x: Any) -> bool:
    """Whether `x` is a SciPy matrix or array in any sparse format."""
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


class SparseRows:
    """The rows of a sparse matrix [N, D]. `rows[index]` makes some of them dense.

    Args:
      matrix: in any SciPy format. Entries that occur twice are added up.
      width: W, the slots of a row; by default, as many as the fullest row has entries.
    """

    def __init__(self, matrix: CsrMatrix, width: int = 0):
        self.matrix = matrix.tocsr().copy()
        self.matrix.sum_duplicates()
        self.width = width or max(1, int(np.diff(self.matrix.indptr).max(initial=0)))
        self.shape, self.dtype = tuple(self.matrix.shape), self.matrix.dtype
        self.ndim, self.size = 2, self.matrix.shape[0] * self.matrix.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.matrix[index].toarray()

    @property
    def entries(self) -> np.ndarray:
        """The entries that are stored; all others are 0."""
        return self.matrix.data

    def take(self, index: np.ndarray) -> "SparseRows":
        """Some of the rows, still sparse."""
        return SparseRows(self.matrix[index], self.width)

    def columns(self) -> dict[str, np.ndarray]:
        """{'x_column': int32[N, W], 'x_value': float32[N, W]}: the padded rows."""
        count_N = np.diff(self.matrix.indptr)
        row, slot = np.repeat(np.arange(len(self)), count_N), np.arange(self.matrix.nnz)
        slot = slot - np.repeat(self.matrix.indptr[:-1], count_N)
        column_NxW = np.full((len(self), self.width), self.shape[1], np.int32)
        value_NxW = np.zeros((len(self), self.width), np.float32)
        column_NxW[row, slot], value_NxW[row, slot] = self.matrix.indices, self.matrix.data
        return {"x_column": column_NxW, "x_value": value_NxW}

    def moments(self, per_feature: bool) -> tuple[Moment, Moment]:
        """Mean and deviation of all entries, or of every feature; a deviation of 0 becomes 1."""
        matrix = self.matrix.astype(np.float64)
        count, axis = (len(self), 0) if per_feature else (self.size, None)
        mean = np.asarray(matrix.sum(axis=axis)).reshape(-1) / count
        square = np.asarray(matrix.multiply(matrix).sum(axis=axis)).reshape(-1) / count
        std = np.sqrt(np.maximum(square - mean**2, 0))
        mean, std = mean.tolist(), np.where(std > 1e-7 * np.sqrt(square), std, 1.0).tolist()
        return (as_moment(mean), as_moment(std)) if per_feature else (mean[0], std[0])


def padded_or_dense(train: CsrMatrix, test: CsrMatrix) -> tuple[Any, Any]:
    """Both as `SparseRows` of one width, or as dense arrays if these take less memory."""
    rows = SparseRows(train), SparseRows(test)
    width = max(one.width for one in rows)
    if 2 * width >= train.shape[1]:  # an entry in a slot takes a column and a value
        return rows[0].matrix.toarray(), rows[1].matrix.toarray()
    return SparseRows(rows[0].matrix, width), SparseRows(rows[1].matrix, width)
