"""MNIST, Fashion-MNIST and their kin: the four idx files in a folder, gzipped or not.

Format: two zero bytes, a type byte (8: unsigned byte), the number of axes, their lengths as big-endian
uint32, then the entries (LeCun, Cortes, Burges: The MNIST database).
"""

import gzip
import math
import pathlib
import zlib

import numpy as np

from ist_jax.data.base import DataError, Raw
from ist_jax.data.progress import opened

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    candidates = [folder / (spelling + ending) for spelling in (name, name.replace("-idx", ".idx")) for ending in ("", ".gz")]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{folder}: {name} (or {name}.gz) is missing")


def _bytes(path: pathlib.Path) -> bytes:
    try:
        with opened(path) as file:
            return gzip.open(file).read() if path.suffix == ".gz" else file.read()
    except OSError as error:
        if not isinstance(error, gzip.BadGzipFile):
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error}); fetch it again") from error


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes.

    Raises:
      DataError: the file is empty, no idx file of unsigned bytes, or of the wrong length.
    """
    content = _bytes(path)
    if not content:
        raise DataError(f"{path}: the file is empty")
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path}: not an idx file of unsigned bytes (it starts with {content[:4].hex()}, expected 000008..)")
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], offset=4).tolist())
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: truncated or damaged: the header promises shape {shape}, {math.prod(shape)} bytes, "
            f"and {len(content) - header} follow"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load(directory: str, dataset: str) -> Raw:
    """Reads the four files in `directory`; `dataset` is not used.

    Raises:
      DataError: the folder or a file is missing, empty, truncated or of the wrong shape.
    """
    del dataset
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise DataError(f"data.dir={directory!r} is not a folder; idx needs one with {', '.join(FILES)}")
    paths = [_find(folder, name) for name in FILES]
    arrays = [read_idx(path) for path in paths]
    for path, array, axes in zip(paths, arrays, (3, 1, 3, 1)):
        if array.ndim != axes:
            raise DataError(f"{path}: expected {axes} axes, found shape {array.shape}")
    x_train, y_train, x_test, y_test = arrays
    return Raw(x_train, y_train, x_test, y_test)
