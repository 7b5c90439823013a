"""Bring your own: one .npz file with x_train, y_train, x_test, y_test."""

import pathlib
from collections.abc import Sequence

import numpy as np

from ist_jax.data.base import DataError, Raw
from ist_jax.data.progress import opened

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: pathlib.Path, names: Sequence[str], source: str) -> dict[str, np.ndarray]:
    """The arrays `names` of an .npz file. Pickled ones are refused.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    if not path.is_file():
        raise DataError(f"data.dir={str(path)!r} is not a file; {source} needs one with {', '.join(names)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    try:
        with opened(path) as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an .npz archive")
            if missing := [name for name in names if name not in archive.files]:
                raise DataError(f"{path}: {', '.join(missing)} missing; it holds {', '.join(archive.files) or 'nothing'}")
            return {name: archive[name] for name in names}
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises whatever the damaged byte leads to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read as .npz ({reason}); it may be truncated, or hold pickled objects") from error


def load(directory: str, dataset: str) -> Raw:
    """Reads the file `directory`; `dataset` is not used.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    del dataset
    found = read_npz(pathlib.Path(directory), ARRAYS, "npz")
    return Raw(*(found[name] for name in ARRAYS))
