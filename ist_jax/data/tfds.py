"""Any prepared TFDS image classification builder, by name.

`data.dataset` is the builder ('fashion_mnist', 'cifar10', 'NAME/CONFIG', 'NAME:VERSION'), `data.dir` the data_dir where it lies
prepared. As array_record (`prepare(name, data_dir)` makes it, with TensorFlow) it is read without TensorFlow; as tfrecord, the
default of TFDS, with it. Images of one size are read whole; with `data.image_size`, images of any size are streamed from disk,
which needs array_record.
"""

import contextlib
import difflib
import importlib.util
import json
import logging
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw, first_line
from ist_jax.data.streamed import Columns, RawStream
from ist_jax.data.tfds_images import TEST_SPLITS, Records, fingerprint

_OF_TFDS = "tensorflow_datasets.core.features."


def _columns(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = list(
        progress(_source(builder, split), "reading TFDS", builder.info.splits[split].num_examples)
    )
    return np.stack([row["image"] for row in rows]), np.array(
        [row["label"] for row in rows], np.int64
    )


def _infos(dataset: str, directory: str) -> list[pathlib.Path]:
    """The dataset_info.json of a builder's versions in `directory`, which TFDS writes last: NAME/[CONFIG/]VERSION."""
    folder = pathlib.Path(directory, dataset.replace(":", "/"))
    found = [
        file for below in ("", "*/", "*/*/") for file in folder.glob(f"{below}dataset_info.json")
    ]
    return [file for file in found if "incomplete" not in str(file)]


def _formats(dataset: str, directory: str) -> set[str]:
    """Of files in which a builder lies in `directory`, whole."""
    found = set()
    for file in _infos(dataset, directory):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.add(str(json.loads(file.read_text()).get("fileFormat", "tfrecord")))
    return found


def _class_names(tree: Any) -> Iterator[str]:
    """The Python classes that a features.json names, by either spelling that protobuf reads."""
    if isinstance(tree, dict):
        yield from (
            str(tree[key]) for key in ("pythonClassName", "python_class_name") if key in tree
        )
    for below in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
        yield from _class_names(below)


def _check_features(dataset: str, directory: str) -> None:
    """Raises DataError if a builder's files name Python modules, which TFDS would import, that are not its own."""
    for features in (info.with_name("features.json") for info in _infos(dataset, directory)):
        names: list[str] = []
        with contextlib.suppress(OSError, ValueError, RecursionError):  # damaged: TFDS says so
            names += _class_names(json.loads(features.read_text()))
        if foreign := [name for name in names if not name.startswith(_OF_TFDS)]:
            raise DataError(
                f"{features}: {foreign[0]!r} is no feature of TFDS, which would import it: prepare it anew"
            )


def is_prepared(dataset: str, directory: str) -> bool:
    """Whether a builder lies in `directory` as array_record, whole."""
    return "array_record" in _formats(dataset, directory)


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def prepare(dataset: str, directory: str) -> None:
    """Downloads and prepares a builder as array_record, unless it lies there already as `load` reads it.

    Raises:
      DataError: TensorFlow, which TFDS prepares with, is not installed; or it lies there as files that need it.
    """
    there = _formats(dataset, directory)
    if "array_record" in there or (there and _has_tensorflow()):
        return
    if there:
        raise DataError(
            f"{directory} holds {dataset!r} as {' and '.join(sorted(there))}: prepare it in another folder"
        )
    if not _has_tensorflow():
        raise DataError(
            f"TFDS needs TensorFlow to prepare {dataset!r} (not to read it): pip install tensorflow"
        )
    import tensorflow_datasets as tfds

    tfds.builder(dataset, data_dir=directory, file_format="array_record").download_and_prepare()


def _check_prepared(directory: str, dataset: str, *, whole: bool = False) -> None:
    """Raises DataError if a builder is not there; one that is read `whole` may be tfrecord."""
    if not dataset:
        raise DataError(
            "data.name='tfds' needs data.dataset, the name of a builder such as 'fashion_mnist'"
        )
    if pathlib.PurePath(dataset).is_absolute() or ".." in pathlib.PurePath(dataset).parts:
        raise DataError(
            f"data.dataset={dataset!r} is the name of a builder in data.dir, and no path: such as 'fashion_mnist'"
        )
    found = _formats(dataset, directory)
    if "array_record" not in found and not (whole and found and _has_tensorflow()):
        if found:
            without = "TFDS does not read without TensorFlow" if whole else "cannot be streamed"
            raise DataError(
                f"data.dir={directory!r} holds {dataset!r} prepared as {' and '.join(sorted(found))}, which {without}: "
                + ("install tensorflow, or " if whole else "")
                + "prepare it as array_record in another folder (ist_jax.data.tfds.prepare)"
            )
        alike = difflib.get_close_matches(
            dataset, [path.name for path in pathlib.Path(directory).glob("*/")]
        )
        close = [name for name in alike if is_prepared(name, directory)]
        raise DataError(
            f"data.dir={directory!r} holds no TFDS builder {dataset!r} prepared as array_record: "
            + (f"did you mean {close[0]!r}?" if close else "ist_jax.data.tfds.prepare does that")
        )
    _check_features(dataset, directory)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _test_split(builder: Any) -> str:
    """'test', or 'validation' where there is none, or none with labels. Raises ValueError if there is neither."""
    found = TEST_SPLITS.get(builder.name, "test" if "test" in builder.info.splits else "validation")
    if missing := {"train", found} - set(builder.info.splits):
        held = f"it has {', '.join(builder.info.splits)}, and no {' and no '.join(sorted(missing))}"
        raise ValueError(
            f"a set is trained on its split train and tested on test or validation; {held}"
        )
    return found


@contextlib.contextmanager
def _said(directory: str, dataset: str) -> Iterator[None]:
    """What TFDS raises, as a DataError."""
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"{dataset}: expected features 'image' and 'label', {error} is missing"
        ) from error
    except DataError:
        raise
    except (
        Exception
    ) as error:  # damaged files raise whatever the readers of TFDS, array_record and protobuf do
        reason = first_line(error)
        raise DataError(f"{dataset} in {directory}: TFDS cannot read it: {reason}") from error


def _source(builder: Any, split: str) -> Iterable[Any]:
    """The examples of a split, in the order of their files."""
    import tensorflow_datasets as tfds

    if builder.info.file_format.value == "array_record":
        return builder.as_data_source(split=split)
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # of which it would take nearly all memory
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order))


def load(directory: str, dataset: str) -> Raw:
    """Reads the builder `dataset` in `directory`: its split 'train', and 'test' or, without one, 'validation'.

    Raises:
      DataError: the builder is not prepared there, it is no image classification set, or its images have several sizes.
    """
    _check_prepared(directory, dataset, whole=True)
    import tensorflow_datasets as tfds  # seconds to import: only who reads TFDS pays

    with _said(directory, dataset):
        builder = tfds.builder(dataset, data_dir=directory)
        shape = builder.info.features["image"].shape
        if None in shape:
            raise DataError(
                f"{dataset}: its images have several sizes: set data.image_size, such as 224, to stream them"
            )
        tested = _test_split(builder)
        (x_test, y_test), (x_train, y_train) = (
            _columns(builder, split) for split in (tested, "train")
        )
    return Raw(x_train, y_train, x_test, y_test, notes={"test split": tested})


def stream(directory: str, dataset: str, image_size: int) -> RawStream:
    """Opens a builder whose images are decoded and resized as they are read, for a model of images of side `image_size`.

    The test split is 'test', or 'validation' where there is none, or none with labels (`tfds_images.TEST_SPLITS`).

    Raises:
      DataError: the builder is not prepared there, or it is no image classification set.
    """
    _check_prepared(directory, dataset)
    import tensorflow_datasets as tfds

    side, lock = round(image_size * 8 / 7), threading.Lock()
    with _said(directory, dataset):
        builder = tfds.builder(dataset, data_dir=directory)
        channels, classes = (
            builder.info.features["image"].shape[-1],
            builder.info.features["label"].num_classes,
        )
        test = _test_split(builder)

        def columns(split: str) -> Columns:
            undecoded = {"image": tfds.decode.SkipDecoding()}
            source = tfds.data_source(dataset, split=split, data_dir=directory, decoders=undecoded)
            records = Records(source, f"{dataset}, split {split}", side, channels, classes, lock)
            return Columns(len(records), records.read)

        parts = columns("train"), columns(test)
        for part in parts:  # labels of a test split without any are said now
            part.read(np.array([0, part.count - 1]))
    shape, notes = (
        (image_size, image_size, channels),
        {"test split": test, "images are resized to": side},
    )
    return RawStream(
        *parts, classes, shape, fingerprint(pathlib.Path(builder.data_dir), side), notes
    )
