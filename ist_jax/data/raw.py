"""What a source reads, and what must be true of it."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ist_jax.data.rows import Blocks, RowStore, blocks


class DataError(ValueError):
    """The data are not what they should be; the message names the file and the remedy."""


def first_line(error: BaseException) -> str:
    """Of what a library's reader raises, for an error of one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def reraise_as(source: str) -> Iterator[None]:
    """Reading arrays whose shapes stand in files: a damaged header promises what no memory has room for."""
    try:
        yield
    except DataError:
        raise
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(
            f"{source}: its files promise arrays that cannot be ({first_line(error)}): damaged, or too large here"
        ) from error


class Raw(NamedTuple):
    """What a source reads.

    Attributes:
      x_train, x_test: inputs [N, ...]; those for training may be read by rows.
      y_train, y_test: labels int[N].
      group_train: per training example, who it is from: a group is validated or trained on as a whole.
      notes: what was done to the data, for records.
    """

    x_train: np.ndarray | Blocks | RowStore
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    group_train: np.ndarray | None = None
    notes: Mapping[str, Any] = {}


def _check_part(x: np.ndarray | RowStore, y: np.ndarray, part: str, source: str) -> None:
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"{source}: there are no {part} examples")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"{source}: one label per example; {part} inputs have shape {x.shape}, labels {y.shape}"
        )
    if x.ndim < 2:
        raise DataError(
            f"{source}: inputs have an example axis and at least one more; {part} inputs have shape {x.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{source}: labels are integers; {part} labels have dtype {y.dtype}")
    if y.min() < 0:
        raise DataError(f"{source}: labels count from 0; the smallest {part} label is {y.min()}")
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise DataError(f"{source}: inputs are numbers; {part} inputs have dtype {x.dtype}")
    if x.size == 0:
        raise DataError(
            f"{source}: inputs have at least one entry; {part} inputs have shape {x.shape}"
        )
    fits = lambda block: (np.abs(block) <= np.finfo(np.float32).max).all()
    if np.issubdtype(x.dtype, np.floating) and not all(map(fits, blocks(x, "checking"))):
        raise DataError(
            f"{source}: inputs are finite in float32; {part} inputs hold nan, inf or more"
        )


def check(raw: Raw, source: str) -> None:
    """Raises DataError if the arrays do not fit together."""
    _check_part(raw.x_train, raw.y_train, "train", source)
    _check_part(raw.x_test, raw.y_test, "test", source)
    if raw.x_train.shape[1:] != raw.x_test.shape[1:]:
        raise DataError(
            f"{source}: train inputs have shape {raw.x_train.shape[1:]}, test inputs {raw.x_test.shape[1:]}"
        )
    if raw.y_train.max() >= len(raw.y_train):
        found = f"{len(raw.y_train)} training examples have a label {raw.y_train.max()}"
        raise DataError(f"{source}: labels count from 0 without large gaps; {found}")
    if raw.y_test.max() > raw.y_train.max():
        raise DataError(
            f"{source}: test label {raw.y_test.max()} never occurs in training, whose largest is {raw.y_train.max()}"
        )
