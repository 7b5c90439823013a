"""Bring your own: one .npz file with x_train, y_train, x_test, y_test."""

import contextlib
import math
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from ist_jax.data.progress import opened, progress
from ist_jax.data.raw import DataError, Raw, first_line
from ist_jax.data.rows import Blocks, blocks_of_stream

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_BYTES = 1 << 22  # that are checked at once


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises whatever the damaged byte leads to
        reason = first_line(error)
        raise DataError(
            f"{path}: cannot be read as .npz ({reason}); it may be truncated, or hold pickled objects"
        ) from error


def read_npz(
    path: pathlib.Path, names: Sequence[str], source: str, stored: Sequence[str] = ()
) -> dict[str, np.ndarray | Blocks]:
    """The arrays `names` of an .npz file. Pickled ones are refused.

    Args:
      path: of the file.
      names: of its arrays.
      source: for errors.
      stored: which of them are to be read by rows.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    if not path.is_file():
        raise DataError(
            f"data.dir={str(path)!r} is not a file; {source} needs one with {', '.join(names)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    with _explained(path), opened(path) as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz archive")
        if missing := [name for name in names if name not in archive.files]:
            raise DataError(
                f"{path}: {', '.join(missing)} missing; it holds {', '.join(archive.files) or 'nothing'}"
            )
        by_rows = {
            name: found
            for name in stored
            if (found := _stored(path, archive.zip, f"{name}.npy")) is not None
        }
        return {name: archive[name] if name not in by_rows else by_rows[name] for name in names}


def _stored(path: pathlib.Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | Blocks | None:
    """A member of the archive at `path`, mapped from it, or as blocks if it is packed; None if it cannot be read by rows."""
    with archive.open(name) as file:
        member, version = archive.getinfo(name), np.lib.format.read_magic(file)
        if version not in _HEADERS:
            return None
        shape, is_fortran, dtype = _HEADERS[version](file)
        if is_fortran or dtype.hasobject or not shape:
            return None
        begin = file.tell()
        if (
            member.compress_type != zipfile.ZIP_STORED
            or member.file_size - begin != math.prod(shape) * dtype.itemsize
        ):
            return Blocks(
                shape,
                dtype,
                lambda: iter(
                    progress(_blocks(path, name, begin, shape, dtype), f"unpacking {name}")
                ),
            )
        while file.read(_BYTES):  # to its end, where its checksum is compared
            pass
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_and_extra = struct.unpack("<26xHH", file.read(30))
    return np.memmap(
        path, dtype, "r", member.header_offset + 30 + sum(name_and_extra) + begin, shape
    )


def _blocks(
    path: pathlib.Path, name: str, begin: int, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    with _explained(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        file.read(begin)
        yield from blocks_of_stream(file, shape, dtype)


def load(directory: str, dataset: str) -> Raw:
    """Reads the file `directory`; `dataset` is not used.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    del dataset
    found = read_npz(pathlib.Path(directory), ARRAYS, "npz", stored=("x_train",))
    return Raw(*(found[name] for name in ARRAYS))
