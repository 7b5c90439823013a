"""Your own data: one .npz file with x_train, y_train, x_test, y_test."""

import contextlib
import math
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.progress import open_with_progress, progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import Blocks, blocks_of_stream

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_SPLIT = "divide one table by sklearn.model_selection.train_test_split"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LOCAL_HEADER = 30  # bytes before a zip member's name and extra field
_BYTES = 1 << 22  # read at once while a checksum is compared


def load(directory: str, dataset: str) -> Raw:
    """Reads the file `directory`. `dataset` is not used.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    del dataset
    arrays = read_npz(pathlib.Path(directory), ARRAYS, "npz", stored=("x_train",), remedy=_SPLIT)
    return Raw(*(arrays[name] for name in ARRAYS))


def names_in(path: pathlib.Path, needs: str) -> list[str]:
    """The names of the arrays in an .npz file.

    Args:
      path: of the file.
      needs: what the source needs, for errors.

    Raises:
      DataError: the file is missing, empty or damaged.
    """
    with _opened(path, needs) as archive:
        return list(archive.files)


def read_npz(
    path: pathlib.Path,
    names: Sequence[str],
    source: str,
    stored: Sequence[str] = (),
    optional: Sequence[str] = (),
    remedy: str = "",
) -> dict[str, Any]:
    """The arrays `names` of an .npz file, as NumPy arrays or `Blocks`. Pickled ones are refused.

    Args:
      path: of the file.
      names: of its arrays.
      source: for errors.
      stored: the arrays that stay in the file and are read by rows, if the file allows it.
      optional: names of further arrays, which are read if the file has them.
      remedy: what to do if an array is missing, for errors.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    with _opened(path, f"{source} needs one with {', '.join(names)}") as archive:
        if missing := [name for name in names if name not in archive.files]:
            present = ", ".join(archive.files) or "nothing"
            todo = f": {remedy}" if remedy else ""
            raise DataError(f"{path}: {', '.join(missing)} missing; it holds {present}{todo}")
        names = [*names, *(name for name in optional if name in archive.files)]
        assert archive.zip is not None  # it is open
        by_rows = {name: _stored_array(path, archive.zip, f"{name}.npy") for name in stored}
        kept = {name: array for name, array in by_rows.items() if array is not None}
        return {name: kept[name] if name in kept else archive[name] for name in names}


@contextlib.contextmanager
def _opened(path: pathlib.Path, needs: str) -> Iterator[np.lib.npyio.NpzFile]:
    """The open archive `path`. Errors while it is read become DataErrors."""
    if not path.is_file():
        raise DataError(f"data.dir={str(path)!r} is not a file; {needs}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    with (
        _reraise_as_data_error(path),
        open_with_progress(path) as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz archive")
        yield archive


@contextlib.contextmanager
def _reraise_as_data_error(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # what a damaged archive raises depends on the damaged byte
        raise DataError(
            f"{path}: cannot be read as .npz ({first_line(error)}); "
            "it may be truncated, or hold pickled objects"
        ) from error


class _Header(NamedTuple):
    """The header of a .npy member.

    Attributes:
      shape, dtype: of the array.
      length: of the header, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    length: int


def _stored_array(
    path: pathlib.Path, archive: zipfile.ZipFile, name: str
) -> np.ndarray | Blocks | None:
    """The array `name` of the archive: memory-mapped, or as blocks if it is compressed.

    None if its rows cannot be read one by one.
    """
    member = archive.getinfo(name)
    with archive.open(name) as file:
        header = _read_header(file)
        if header is None:
            return None
        num_bytes = math.prod(header.shape) * header.dtype.itemsize
        is_stored = member.compress_type == zipfile.ZIP_STORED
        if not is_stored or member.file_size - header.length != num_bytes:
            return Blocks(header.shape, header.dtype, lambda: _blocks(path, name, header))
        while file.read(_BYTES):  # at the end of the member, zipfile compares its checksum
            pass
    begin = _content_begin(path, member) + header.length
    return np.memmap(path, header.dtype, "r", begin, header.shape)


def _read_header(file: IO[bytes]) -> _Header | None:
    """The header; None if the array is not stored row by row, or is pickled."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        return None
    shape, is_fortran, dtype = _HEADERS[version](file)
    if is_fortran or dtype.hasobject or not shape:
        return None
    return _Header(shape, dtype, file.tell())


def _content_begin(path: pathlib.Path, member: zipfile.ZipInfo) -> int:
    """The position in the archive, in bytes, at which the content of a member begins."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_and_extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return member.header_offset + _LOCAL_HEADER + sum(name_and_extra)


def _blocks(path: pathlib.Path, name: str, header: _Header) -> Iterator[np.ndarray]:
    with (
        _reraise_as_data_error(path),
        zipfile.ZipFile(path) as archive,
        archive.open(name) as file,
    ):
        file.read(header.length)
        blocks = blocks_of_stream(file, header.shape, header.dtype)
        yield from progress(blocks, f"unpacking {name}")
