"""Any prepared TFDS image classification builder, by name, read without TensorFlow.

`data.dataset` is the builder ('fashion_mnist', 'cifar10', ...), `data.dir` the TFDS data_dir where it lies
prepared as array_record: `prepare(name, data_dir)` does that, with TensorFlow.
"""

import contextlib
import importlib.util
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ist_jax.data.base import DataError, Raw
from ist_jax.data.progress import progress


def _columns(source: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    rows = list(progress(source, "reading TFDS", len(source)))
    return np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows], np.int64)


def is_prepared(dataset: str, directory: str) -> bool:
    """Whether a builder lies in `directory` as array_record, whole: TFDS writes dataset_info.json last."""
    for file in pathlib.Path(directory, dataset).glob("**/dataset_info.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if "incomplete" not in str(file) and json.loads(file.read_text()).get("fileFormat") == "array_record":
                return True
    return False


def prepare(dataset: str, directory: str) -> None:
    """Downloads and prepares a builder as `load` reads it, unless it lies there already.

    Raises:
      DataError: TensorFlow, which TFDS prepares with, is not installed.
    """
    if is_prepared(dataset, directory):
        return
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f"TFDS needs TensorFlow to prepare {dataset!r} (not to read it): pip install tensorflow")
    import tensorflow_datasets as tfds

    tfds.builder(dataset, data_dir=directory, file_format="array_record").download_and_prepare()


def load(directory: str, dataset: str) -> Raw:
    """Reads the splits 'train' and 'test' of the builder `dataset` in `directory`.

    Raises:
      DataError: the builder is not prepared there, or it is no image classification set.
    """
    if not dataset:
        raise DataError("data.name='tfds' needs data.dataset, the name of a builder such as 'fashion_mnist'")
    if not is_prepared(dataset, directory):
        raise DataError(
            f"data.dir={directory!r} holds no TFDS builder {dataset!r} prepared as array_record: "
            "ist_jax.data.tfds.prepare does that"
        )
    logging.getLogger("absl").setLevel(logging.WARNING)
    import tensorflow_datasets as tfds  # seconds to import: only who reads TFDS pays

    try:
        train, test = (tfds.data_source(dataset, split=split, data_dir=directory) for split in ("train", "test"))
        (x_train, y_train), (x_test, y_test) = _columns(train), _columns(test)
    except KeyError as error:
        raise DataError(f"{dataset}: expected features 'image' and 'label', {error} is missing") from error
    except (ValueError, NotImplementedError, OSError, AssertionError) as error:
        raise DataError(
            f"{dataset} in {directory}: TFDS cannot read it: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return Raw(x_train, y_train, x_test, y_test)
