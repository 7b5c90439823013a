"""MNIST, Fashion-MNIST and similar sets: the four idx files in a folder, gzipped or not.

Format: two zero bytes, a type byte (8: unsigned byte), the number of axes, their lengths as
big-endian uint32, then the entries (LeCun, Cortes, Burges: The MNIST database).
"""

import contextlib
import gzip
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

from ist_jax.data.progress import open_with_progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import Blocks, LengthError, blocks_of_stream, in_memory

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load(directory: str, dataset: str) -> Raw:
    """Reads the four files in `directory`. `dataset` is not used.

    Raises:
      DataError: the folder or a file is missing, empty, truncated or of the wrong shape.
    """
    del dataset
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise DataError(
            f"data.dir={directory!r} is not a folder; idx needs one with {', '.join(FILES)}"
        )
    paths = [_find(folder, name) for name in FILES]
    arrays = [stored_idx(path) for path in paths]
    for path, array, axes in zip(paths, arrays, (3, 1, 3, 1)):
        if len(array.shape) != axes:
            raise DataError(f"{path}: an array of {axes} axes is expected, not shape {array.shape}")
    x_train, *others = arrays
    y_train, x_test, y_test = map(in_memory, others)
    return Raw(x_train, y_train, x_test, y_test)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes, in memory. Raises DataError as `stored_idx`."""
    return in_memory(stored_idx(path))


def stored_idx(path: pathlib.Path) -> np.ndarray | Blocks:
    """The array in an idx file of unsigned bytes: memory-mapped, or as blocks if it is gzipped.

    Raises:
      DataError: the file is empty, is no idx file of unsigned bytes, or has the wrong length. The
        length of a gzipped file is checked only when its blocks are read.
    """
    with _open_unpacked(path) as file:
        shape, header = _read_shape(file, path), file.tell()
    is_complete = path.stat().st_size - header == math.prod(shape)
    if path.suffix != ".gz" and is_complete:
        return np.memmap(path, np.uint8, "r", header, shape)
    return Blocks(shape, np.dtype(np.uint8), lambda: _blocks(path))


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    for spelling in (name, name.replace("-idx", ".idx")):
        for ending in ("", ".gz"):
            path = folder / (spelling + ending)
            if path.is_file():
                return path
    raise DataError(f"{folder}: {name} (or {name}.gz) is missing")


@contextlib.contextmanager
def _open_unpacked(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens the file for reading bytes, unzipped if its name ends in .gz."""
    unpack = gzip.open if path.suffix == ".gz" else contextlib.nullcontext
    try:
        with open_with_progress(path) as file, unpack(file) as content:
            yield cast(BinaryIO, content)  # a GzipFile is read like one
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or truncated gzip file ({error}); fetch it again"
        ) from error


def _read_shape(file: BinaryIO, path: pathlib.Path) -> tuple[int, ...]:
    """Reads the header and returns the array's shape."""
    begin = file.read(4)
    if not begin:
        raise DataError(f"{path}: the file is empty")
    lengths = file.read(4 * begin[3]) if len(begin) == 4 else b""
    if len(begin) < 4 or begin[:3] != b"\x00\x00\x08" or len(lengths) < 4 * begin[3]:
        raise DataError(
            f"{path}: not an idx file of unsigned bytes "
            f"(it starts with {begin.hex()}, expected 000008..)"
        )
    return tuple(np.frombuffer(lengths, ">u4").tolist())


def _blocks(path: pathlib.Path) -> Iterator[np.ndarray]:
    with _open_unpacked(path) as file:
        shape = _read_shape(file, path)
        try:
            yield from blocks_of_stream(file, shape, np.dtype(np.uint8))
        except LengthError as error:
            raise DataError(
                f"{path}: truncated or damaged: the header announces shape {shape}, "
                f"{math.prod(shape)} bytes, and {error.num_bytes} follow"
            ) from error
