"""Training inputs that stay in their file until rows of them are asked for.

Where several processes train workers with shards of their own, each keeps the rows that its own workers draw. What concerns
all rows (checks, mean and deviation, fingerprint) is computed a block at a time, so that every process reads the whole file.
To read less would not pay: a shard's rows are drawn at random, and nearly every page of a file of small rows has one of them. A
source hands over its training inputs as an array, mapped from a file where that holds them as they are, or as `Blocks` where it
does not.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ist_jax.data.progress import progress

ROWS = 4096  # in a block
_BYTES = 1 << 22  # of a stream that are read at once
_LEAF = (
    1 << 20
)  # entries that are added up at once: a multiple of the 8192 that numpy casts at once


class LengthError(ValueError):
    """A file holds more or less than it promises.

    Attributes:
      found: bytes.
    """

    def __init__(self, found: int):
        super().__init__(f"{found} bytes follow, which is another number than promised")
        self.found = found


@contextlib.contextmanager
def _in_tmpdir(num_bytes: int) -> Iterator[BinaryIO]:
    """A file without a name in TMPDIR, for `num_bytes`."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise OSError(
            f"training inputs are unpacked into a file in TMPDIR ({tempfile.tempdir}), which does not take their {num_bytes:,} "
            f"bytes ({error.strerror}): set TMPDIR to a folder with more room, or unpack the data"
        ) from error


class Blocks(NamedTuple):
    """An array that is read from its beginning to its end, in blocks of rows.

    Attributes:
      shape: [N, ...].
      dtype: of the entries.
      read: begins to read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Iterator[np.ndarray]]

    def into_memory(self) -> np.ndarray:
        """All rows."""
        rows, begin = np.empty(self.shape, self.dtype), 0
        for block in self.read():
            rows[begin : begin + len(block)] = block
            begin += len(block)
        return rows

    def into_file(self) -> np.ndarray:
        """All rows, mapped from a file without a name in TMPDIR, which is gone when nobody reads it any more.

        Raises:
          OSError: TMPDIR cannot take them; the message names it, their bytes and the remedy.
        """
        with _in_tmpdir(math.prod(self.shape) * self.dtype.itemsize) as file:
            for block in self.read():
                file.write(np.ascontiguousarray(block).data)
            file.flush()
            return (
                np.memmap(file, self.dtype, "r", shape=self.shape)
                if math.prod(self.shape)
                else self.into_memory()
            )


class Rows:
    """Rows of a stored array, which `rows[index]` reads; `np.asarray(rows)` reads all of them.

    Args:
      stored: [N, ...], an array (mapped from a file), or Rows of one.
      index: int[n], which of its rows these are.
      dtype: what they become; by default what they are.
    """

    def __init__(self, stored: "np.ndarray | Rows", index: np.ndarray, dtype: Any = None):
        self._stored, self._index, self.dtype = (
            stored,
            np.asarray(index),
            np.dtype(dtype or stored.dtype),
        )
        self.shape = (len(self._index), *stored.shape[1:])
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> np.ndarray:
        index = self._index[chosen]
        found, order = (
            np.empty((len(index), *self.shape[1:]), self.dtype),
            np.argsort(index, kind="stable"),
        )
        for begin in range(0, len(order), ROWS):  # through the file from its beginning to its end
            at = order[begin : begin + ROWS]
            found[at] = self._stored[index[at]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def mapped(x: "np.ndarray | Blocks | Rows") -> "np.ndarray | Rows":
    """`x` for reading rows of it, out of memory."""
    if isinstance(x, Rows | np.memmap):
        return x
    return (x if isinstance(x, Blocks) else Blocks(x.shape, x.dtype, lambda: blocks(x))).into_file()


def in_memory(x: "np.ndarray | Blocks | Rows") -> np.ndarray:
    """All of `x`, or what maps it from its file."""
    return x.into_memory() if isinstance(x, Blocks) else np.asarray(x)


def blocks(x: "np.ndarray | Rows", what: str = "") -> Iterator[np.ndarray]:
    """`x` in blocks of rows, with a progress bar called `what` if it takes long."""
    for begin in progress(range(0, len(x), ROWS), what) if what else range(0, len(x), ROWS):
        yield x[begin : begin + ROWS]


def blocks_of_stream(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The rows of an array that lies in `file` from where it is read to its end.

    Raises:
      LengthError: the file is not as long as `shape` says.
    """
    row = math.prod(shape[1:]) * dtype.itemsize
    found, promised = 0, shape[0] * row
    while content := file.read(row * max(1, _BYTES // max(row, 1)) or 1):
        found += len(content)
        if row and found <= promised and len(content) % row == 0:
            yield np.frombuffer(content, dtype).reshape(-1, *shape[1:])
    if found != promised:
        raise LengthError(found)


def _entries(x: "np.ndarray | Rows", begin: int, end: int) -> np.ndarray:
    """Entries `begin` .. `end - 1` of all of `x` in order."""
    row = math.prod(x.shape[1:])
    rows = np.ascontiguousarray(x[begin // row : -(-end // row)]).reshape(-1)
    return rows[begin % row : begin % row + end - begin]


def mean_and_std(x: "np.ndarray | Rows") -> tuple[float, float]:
    """Of all entries, in float64: to the last bit what `x.mean` and `x.std` of numpy give, a block at a time."""
    total, size = np.float64(0), math.prod(x.shape)
    for begin in range(0, size, _LEAF):
        total = np.add.reduce(
            _entries(x, begin, min(begin + _LEAF, size)), dtype=np.float64, initial=total
        )
    mean = total / size

    def squares(begin: int, end: int) -> np.float64:
        if end - begin <= _LEAF:
            return np.square(_entries(x, begin, end) - mean).sum()
        half = (end - begin) // 2
        middle = begin + half - half % 8  # where numpy's pairwise summation parts them
        return squares(begin, middle) + squares(middle, end)

    return float(mean), float(np.sqrt(squares(0, size) / size))
