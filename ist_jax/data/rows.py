"""Training inputs that stay in their file until rows of them are read.

If several processes train workers with disjoint shards, each process keeps only the rows that its
workers draw. The checks, the mean and deviation and the fingerprint need all rows, so every process
reads the full file, one block at a time. Reading less would save nothing: a shard's rows are
random, and nearly every page of a file of small rows contains one of them.

A source returns its training inputs as an array, memory-mapped if possible, or as `Blocks`.
"""

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from ist_jax.data.progress import progress

ROWS = 4096  # rows of a block
_BYTES = 1 << 22  # bytes read from a stream at once
_LEAF = 1 << 20  # entries added up at once: a multiple of the 8192 that numpy casts at once


def strided_indices(num_examples: int, size: int) -> np.ndarray:
    """int32[n]: `size` evenly spaced rows, or all rows if there are fewer.

    They are spaced because a data set may be sorted by label.
    """
    return np.linspace(0, num_examples - 1, min(size, num_examples)).astype(np.int32)


class LengthError(ValueError):
    """A file holds more or fewer bytes than its header says.

    Attributes:
      num_bytes: how many bytes follow the header.
    """

    def __init__(self, num_bytes: int):
        super().__init__(f"{num_bytes} bytes follow the header, which announces another number")
        self.num_bytes = num_bytes


@contextlib.contextmanager
def _in_tmpdir(num_bytes: int) -> Iterator[BinaryIO]:
    """An unnamed file in TMPDIR for `num_bytes`. Raises OSError if they do not fit."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise OSError(
            f"training inputs are unpacked into a file in TMPDIR ({tempfile.tempdir}), which has "
            f"no room for their {num_bytes:,} bytes ({error.strerror}): set TMPDIR to a folder "
            f"with more room, or unpack the data"
        ) from error


class Blocks(NamedTuple):
    """An array that is read from beginning to end, in blocks of rows.

    Attributes:
      shape: [N, ...].
      dtype: of the entries.
      read: yields the blocks, from the beginning in every call.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Iterable[np.ndarray]]

    def into_memory(self) -> np.ndarray:
        """All rows, as an array in memory."""
        rows, begin = np.empty(self.shape, self.dtype), 0
        for block in self.read():
            rows[begin : begin + len(block)] = block
            begin += len(block)
        return rows

    def into_file(self) -> np.ndarray:
        """All rows, memory-mapped from an unnamed file in TMPDIR that disappears with the array.

        Raises:
          OSError: TMPDIR has no room; the message says how many bytes are needed, and the remedy.
        """
        if not math.prod(self.shape):  # an empty file cannot be mapped
            return self.into_memory()
        with _in_tmpdir(math.prod(self.shape) * self.dtype.itemsize) as file:
            for block in self.read():
                file.write(np.ascontiguousarray(block).data)
            file.flush()
            return np.memmap(file, self.dtype, "r", shape=self.shape)


class RowStore:
    """Rows of a stored array: `store[index]` reads some of them, `np.asarray(store)` all.

    Args:
      stored: [N, ...], an array, usually memory-mapped, or another store.
      index: int[n], the rows of `stored` that this store has.
      dtype: rows are cast to it when they are read; by default, that of `stored`.
    """

    def __init__(self, stored: "np.ndarray | RowStore", index: np.ndarray, dtype: Any = None):
        self._stored, self._index = stored, np.asarray(index)
        self.dtype = np.dtype(dtype or stored.dtype)
        self.shape = (len(self._index), *stored.shape[1:])
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> np.ndarray:
        index = self._index[chosen]
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        order = np.argsort(index, kind="stable")  # the file is read from beginning to end
        for begin in range(0, len(order), ROWS):
            at = order[begin : begin + ROWS]
            rows[at] = self._stored[index[at]]
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def mapped(x: "np.ndarray | Blocks | RowStore") -> "np.ndarray | RowStore":
    """`x`, memory-mapped, so that only the rows that are read take memory."""
    if isinstance(x, RowStore | np.memmap):
        return x
    if not isinstance(x, Blocks):
        x = Blocks(x.shape, x.dtype, functools.partial(blocks, x))
    return x.into_file()


def in_memory(x: "np.ndarray | Blocks | RowStore") -> np.ndarray:
    """`x` as an array, in memory or still memory-mapped."""
    return x.into_memory() if isinstance(x, Blocks) else np.asarray(x)


def blocks(x: "np.ndarray | RowStore", what: str = "") -> Iterator[np.ndarray]:
    """`x` in blocks of rows. If `what` is given, it names a progress bar."""
    begins = range(0, len(x), ROWS)
    for begin in progress(begins, what) if what else begins:
        yield x[begin : begin + ROWS]


def blocks_of_stream(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The rows of an array that fills the rest of `file`.

    Raises:
      LengthError: the rest of the file is not as long as `shape` says.
    """
    row = math.prod(shape[1:]) * dtype.itemsize
    num_bytes, announced = 0, shape[0] * row
    while content := file.read(row * max(1, _BYTES // max(row, 1)) or 1):
        num_bytes += len(content)
        if row and num_bytes <= announced and len(content) % row == 0:
            yield np.frombuffer(content, dtype).reshape(-1, *shape[1:])
    if num_bytes != announced:
        raise LengthError(num_bytes)


def _entries(x: "np.ndarray | RowStore", begin: int, end: int) -> np.ndarray:
    """The flat entries `begin` .. `end - 1` of `x`."""
    row = math.prod(x.shape[1:])
    rows = np.ascontiguousarray(x[begin // row : -(-end // row)]).reshape(-1)
    return rows[begin % row : begin % row + end - begin]


def mean_and_std(x: "np.ndarray | RowStore") -> tuple[float, float]:
    """Mean and standard deviation of all entries, in float64, computed a block at a time.

    They equal NumPy's `x.mean` and `x.std` with dtype float64 to the last bit.
    """
    total, size = np.float64(0), math.prod(x.shape)
    for begin in range(0, size, _LEAF):
        block = _entries(x, begin, min(begin + _LEAF, size))
        total = np.add.reduce(block, dtype=np.float64, initial=total)
    mean = total / size

    def squares(begin: int, end: int) -> np.float64:
        if end - begin <= _LEAF:
            return np.square(_entries(x, begin, end) - mean).sum()
        half = (end - begin) // 2
        middle = begin + half - half % 8  # where numpy's pairwise summation splits
        return squares(begin, middle) + squares(middle, end)

    return float(mean), float(np.sqrt(squares(0, size) / size))


def mean_and_std_per_feature(x: "np.ndarray | RowStore") -> tuple[np.ndarray, np.ndarray]:
    """float64[...]: mean and standard deviation of every entry of an input, over the N inputs.

    The deviation of an entry that is the same in all inputs is 1.
    """
    shape, count = x.shape[1:], len(x)
    step = max(1, _LEAF // max(1, math.prod(shape)))
    parts = [slice(begin, begin + step) for begin in range(0, count, step)]
    total, squares = np.zeros(shape), np.zeros(shape)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for part in parts:
        rows = x[part]
        total += rows.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    mean = total / count
    for part in parts:
        squares += np.square(x[part] - mean).sum(axis=0)
    return mean, np.where(high > low, np.sqrt(squares / count), 1.0)
