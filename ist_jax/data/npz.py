"""Bring your own: one .npz file with x_train, y_train, x_test, y_test."""

import pathlib

import numpy as np

from ist_jax.data.base import DataError, Raw
from ist_jax.data.progress import opened

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load(directory: str, dataset: str) -> Raw:
    """Reads the file `directory`; `dataset` is not used. Pickled arrays are refused.

    Raises:
      DataError: the file or an array is missing, empty, damaged or pickled.
    """
    del dataset
    path = pathlib.Path(directory)
    if not path.is_file():
        raise DataError(f"data.dir={directory!r} is not a file; npz needs one with {', '.join(ARRAYS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    try:
        with opened(path) as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an .npz archive")
            if missing := [name for name in ARRAYS if name not in archive.files]:
                raise DataError(f"{path}: {', '.join(missing)} missing; it holds {', '.join(archive.files) or 'nothing'}")
            return Raw(*(archive[name] for name in ARRAYS))
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises whatever the damaged byte leads to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read as .npz ({reason}); it may be truncated, or hold pickled objects") from error
