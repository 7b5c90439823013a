"""Data sets from arrays in memory."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from ist_jax.data.base import Dataset
from ist_jax.data.held_out import held_out
from ist_jax.data.make import make_dataset
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.sparse import is_sparse, padded_or_dense
from ist_jax.data.splits import SPLITS, check_split, shards_of
from ist_jax.data.targets import kind_of

_MOST_LABELS = 2**32  # entries of a table of labels, a byte each


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any = None,
    y_test: Any = None,
    *,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    groups: Any = None,
    task: str = "auto",
    standardise: str = "whole",
    split: str = "shared",
    alpha: float = 1.0,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """A data set from NumPy or JAX arrays, or SciPy sparse inputs, of any numeric dtype.

    Checks, the validation split, shards and the fingerprint are the same as for data from files.
    Sparse inputs become dense batch by batch, on the device. They are stored dense if that takes
    less memory.

    Args:
      x: inputs [N, ...] of the training examples; of all examples if there is no `x_test`.
      y: targets: classes int[N], numbers [N] or [N, K], or a table [N, labels] of 0 and 1, which
        may be sparse.
      x_test, y_test: inputs and targets of the test examples. Without them, `test_fraction` of the
        examples are held out at random.
      test_fraction: share of the examples, in (0, 1); only without test examples.
      validation_fraction: share of the training examples that is held out, in (0, 1).
      groups: [N], the group of each example, such as its speaker. A group is either trained on or
        held out. None: there are no groups.
      task: what the targets are, as in `data.load`.
      standardise: how a task normalises inputs, as in `data.load`.
      split: which training examples workers draw from, as in `data.load`.
      alpha: concentration of the Dirichlet split.
      seed: of the disjoint and Dirichlet splits.
      name: for records and messages.

    Raises:
      DataError: the arrays do not fit together, or do not fit the task.
      ValueError: an option is unknown or out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    x, y, groups = _inputs(x), _targets(y, name), None if groups is None else np.asarray(groups)
    _check_lengths(name, x=x, y=y, groups=groups)
    if (x_test is None) != (y_test is None):
        raise DataError(f"{name}: test examples are x_test and y_test: give both, or neither")
    if x_test is None:
        raw = _with_test_split(Raw(x, y, x, y, groups), task, test_fraction, name)
    else:
        raw = Raw(x, y, _inputs(x_test), _targets(y_test, name), groups)
    if is_sparse(raw.x_train) or is_sparse(raw.x_test):
        raw = _with_sparse_inputs(raw, name)
    dataset = make_dataset(
        raw,
        name,
        source=name,
        validation_fraction=validation_fraction,
        shards=functools.partial(shards_of, split, seed, alpha),
        standardise=standardise,
        task=task,
    )
    check_split(split, dataset.task)
    return dataset


def _with_numpy_dtype(array: np.ndarray) -> np.ndarray:
    """`array`; as float32 if its floating-point dtype is not one of NumPy's, such as bfloat16."""
    is_other = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.kind != "f"
    return array.astype(np.float32) if is_other else array


def _inputs(x: Any) -> Any:
    """A NumPy array, or a sparse matrix in rows. bool and sparse integers become float32."""
    if is_sparse(x):  # entries that occur twice are added up, which small integers cannot hold
        return (x.astype(np.float32) if x.dtype.kind in "biu" else x).tocsr()
    x = _with_numpy_dtype(np.asarray(x))
    return x.astype(np.float32) if x.dtype == bool else x


def _targets(y: Any, name: str) -> np.ndarray:
    """A NumPy array; sparse labels become a dense table, and bool becomes integers."""
    if is_sparse(y):
        if y.shape[0] * y.shape[1] > _MOST_LABELS:
            raise DataError(
                f"{name}: labels are stored as a dense table of at most {_MOST_LABELS:,} entries, "
                f"but these have shape {y.shape}: keep only the most frequent labels"
            )
        y = y.toarray()
    y = _with_numpy_dtype(np.asarray(y))
    return y.astype(np.int32) if y.dtype == bool else y


def _check_lengths(name: str, **arrays: Any) -> None:
    """Raises DataError unless all arrays have the same number of entries, at least one."""
    shapes = {key: tuple(array.shape) for key, array in arrays.items() if array is not None}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) > 1 or not lengths.isdisjoint({(), (0,)}):
        raise DataError(
            f"{name}: arrays must have an entry for every example, but their shapes are {shapes}"
        )


def _with_test_split(raw: Raw, task: str, fraction: float, name: str) -> Raw:
    """Divides the examples between training and test. Both parts of `raw` have all of them."""
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction is above 0 and below 1, not {fraction}")
    kind = kind_of(raw, task, name)
    kind.check(raw, name)
    is_test_N = held_out(kind.classes(raw.y_train), raw.group_train, fraction)
    if is_test_N.all() or not is_test_N.any():
        raise DataError(
            f"{name}: test_fraction={fraction} of {len(is_test_N)} examples leaves an empty split"
        )
    test, rest = np.flatnonzero(is_test_N), np.flatnonzero(~is_test_N)
    groups = None if raw.group_train is None else raw.group_train[rest]
    x, y = raw.x_train, raw.y_train
    return raw._replace(
        x_train=x[rest], y_train=y[rest], x_test=x[test], y_test=y[test], group_train=groups
    )


def _with_sparse_inputs(raw: Raw, name: str) -> Raw:
    """`raw` with sparse inputs as `SparseRows`, or dense. Raises DataError if one part is dense."""
    if not (is_sparse(raw.x_train) and is_sparse(raw.x_test)):
        raise DataError(
            f"{name}: inputs of training and test examples must be both sparse or both dense: "
            "x.toarray() makes one dense"
        )
    x_train, x_test = padded_or_dense(raw.x_train, raw.x_test)
    return raw._replace(x_train=x_train, x_test=x_test)
