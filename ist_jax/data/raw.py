"""The raw arrays that a source of independent examples reads, and their checks."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.rows import Blocks, RowStore, blocks
from ist_jax.data.sparse import SparseRows

NUMBERED = "number the classes from 0, np.unique(y, return_inverse=True)[1]"


class DataError(ValueError):
    """The data cannot be used. The message is one line: the file, the fault and the remedy."""


@contextlib.contextmanager
def reraise_as(source: str) -> Iterator[None]:
    """Re-raises errors of allocating arrays as DataError: a damaged header may ask for any size.

    Args:
      source: file or folder, for the message.
    """
    try:
        yield
    except DataError:
        raise
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(
            f"{source}: its files announce arrays that cannot be made ({first_line(error)}): "
            "they are damaged, or too large for this machine"
        ) from error


class Raw(NamedTuple):
    """The arrays that a source reads.

    Attributes:
      x_train, x_test: inputs [N, ...]. Training inputs may stay in their file and be read by rows;
        both may be sparse.
      y_train, y_test: classes int[N], targets of regression [N] or [N, K], or labels [N, C] of 0
        and 1; `targets.kind_of` tells which.
      group_train: [N], the group of each training example, such as its speaker. A group is either
        trained on or held out for validation. None: there are no groups.
      notes: what was done to the data, for records.
      warnings: about anything odd in the data, one line each.
    """

    x_train: np.ndarray | Blocks | RowStore | SparseRows
    y_train: np.ndarray
    x_test: np.ndarray | SparseRows
    y_test: np.ndarray
    group_train: np.ndarray | None = None
    notes: Mapping[str, Any] = {}
    warnings: tuple[str, ...] = ()


def check(raw: Raw, source: str) -> None:
    """Raises DataError, its message starting with `source`, if the arrays do not fit together."""
    for part, x, y in (("train", raw.x_train, raw.y_train), ("test", raw.x_test, raw.y_test)):
        assert not isinstance(x, Blocks)  # the caller has read or mapped them
        _check_lengths(x, y, part, source)
        _check_inputs(x, part, source)
    if raw.x_train.shape[1:] != raw.x_test.shape[1:]:
        raise DataError(
            f"{source}: train inputs have shape {raw.x_train.shape[1:]}, "
            f"test inputs {raw.x_test.shape[1:]}: prepare both in the same way"
        )


def _check_lengths(x: Any, y: np.ndarray, part: str, source: str) -> None:
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"{source}: there are no {part} examples")
    if y.ndim == 0 or len(x) != len(y):
        raise DataError(
            f"{source}: one label per example; {part} inputs have shape {x.shape}, "
            f"labels {y.shape}: give both equally many rows"
        )
    if x.ndim < 2:
        raise DataError(
            f"{source}: inputs have an example axis and at least one more; "
            f"{part} inputs have shape {x.shape}: x[:, None] makes one feature of it"
        )


def label_remedy(y: np.ndarray, *, several: str, numbers: str) -> str:
    """What to do about labels that are not one integer for each example.

    Args:
      y: the labels.
      several: the remedy for several labels per example.
      numbers: the remedy for numbers that are not whole.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        return "use y[:, 0]"
    if y.ndim == 2:
        return "use y.argmax(axis=1)" if _is_one_hot(y) else several
    if not np.issubdtype(y.dtype, np.floating):
        return NUMBERED
    return "use y.astype(int)" if (y == np.rint(y)).all() else numbers


def _is_one_hot(y: np.ndarray) -> bool:
    if not (np.issubdtype(y.dtype, np.number) or y.dtype == bool):
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _check_inputs(x: Any, part: str, source: str) -> None:
    is_floating = np.issubdtype(x.dtype, np.floating)
    if not (is_floating or np.issubdtype(x.dtype, np.integer)):
        raise DataError(
            f"{source}: inputs are numbers; {part} inputs have dtype {x.dtype}: if they stand for "
            "numbers, x.astype(np.float32)"
        )
    if x.size == 0:
        raise DataError(
            f"{source}: inputs have at least one entry; {part} inputs have shape {x.shape}"
        )
    is_finite = lambda block: (np.abs(block) <= np.finfo(np.float32).max).all()
    parts = [x.entries] if isinstance(x, SparseRows) else blocks(x, "checking")
    if is_floating and not all(map(is_finite, parts)):
        raise DataError(
            f"{source}: inputs are finite in float32; some {part} inputs are nan, infinite or "
            "larger"
        )


def check_int32(raw: Raw, source: str) -> None:
    """Raises DataError unless all inputs, which are not sparse, fit into int32."""
    bounds = np.iinfo(np.int32)
    for part, x in (("train", raw.x_train), ("test", raw.x_test)):
        assert not isinstance(x, Blocks | SparseRows)  # the caller has read or mapped them
        is_inside = lambda block: bounds.min <= block.min() and block.max() <= bounds.max
        if not all(map(is_inside, blocks(x))):
            raise DataError(
                f"{source}: integer inputs must fit into int32, but some {part} inputs do not: "
                "number tokens or categories from 0, or standardise numbers (data.standardise)"
            )
