"""CIFAR-10 and CIFAR-100 from their binary folders.

Format: records of one label byte (CIFAR-100: coarse, then fine) and 3,072 bytes, 32 x 32 of red,
then green, then blue, row by row (Krizhevsky, Learning Multiple Layers of Features from Tiny
Images, 2009).
"""

import pathlib
from typing import NamedTuple

import numpy as np

from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import Blocks

_PIXELS = 3 * 32 * 32


class RecordFormat(NamedTuple):
    """The files of a set and the format of their records.

    Attributes:
      folder: its name in the archive; data.dir is this folder or the one above it.
      train, test: names of files.
      label_bytes: number of bytes before the image; the last of them is the label.
      num_classes: C.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    num_classes: int


_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10 = RecordFormat("cifar-10-batches-bin", _BATCHES, "test_batch.bin", 1, 10)
CIFAR100 = RecordFormat("cifar-100-binary", ("train.bin",), "test.bin", 2, 100)


def load10(directory: str, dataset: str) -> Raw:
    """CIFAR-10 from `cifar-10-batches-bin` or the folder above it. `dataset` is not used.

    Raises:
      DataError: the folder or a file is missing, or any error of `read_records`.
    """
    del dataset
    return _load(directory, CIFAR10)


def load100(directory: str, dataset: str) -> Raw:
    """CIFAR-100 with its fine labels from `cifar-100-binary` or the folder above it.

    `dataset` is not used.

    Raises:
      DataError: the folder or a file is missing, or any error of `read_records`.
    """
    del dataset
    return _load(directory, CIFAR100)


def _load(directory: str, record_format: RecordFormat) -> Raw:
    folder = pathlib.Path(directory)
    if (folder / record_format.folder).is_dir():
        folder /= record_format.folder
    files = (*record_format.train, record_format.test)
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise DataError(
            f"data.dir={directory!r} is not the folder {record_format.folder}: "
            f"{', '.join(missing)} missing"
        )
    images, labels = zip(
        *(read_records(folder / name, record_format) for name in record_format.train)
    )
    y_train = np.concatenate(labels)
    shape = (len(y_train), *images[0].shape[1:])
    x_train = Blocks(shape, images[0].dtype, lambda: progress(images, "reading CIFAR"))
    return Raw(x_train, y_train, *read_records(folder / record_format.test, record_format))


def read_records(path: pathlib.Path, record_format: RecordFormat) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[N, 32, 32, 3], mapped from the file, and labels int64[N].

    Raises:
      DataError: the file is missing, empty, cut off, or has a label out of range.
    """
    try:
        content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    length = record_format.label_bytes + _PIXELS
    if len(content) == 0 or len(content) % length:
        raise DataError(
            f"{path}: a file is one or more records of {length} bytes, and it has {len(content)}: "
            "it is empty or truncated; fetch it again"
        )
    records = content.reshape(-1, length)
    label = records[:, record_format.label_bytes - 1].astype(np.int64)
    if label.max() >= record_format.num_classes:
        raise DataError(
            f"{path}: labels are below {record_format.num_classes}, and one is {label.max()}; "
            "is it the other CIFAR?"
        )
    images = records[:, record_format.label_bytes :].reshape(-1, 3, 32, 32)
    return images.transpose(0, 2, 3, 1), label
