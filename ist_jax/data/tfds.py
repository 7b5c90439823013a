"""Any prepared TFDS builder of an image classification set, by name.

`data.dataset` is the builder ('fashion_mnist', 'cifar10', 'NAME/CONFIG', 'NAME:VERSION'), and
`data.dir` the data_dir in which it is prepared. Files in the format array_record, which `prepare`
makes with TensorFlow, are read without TensorFlow; reading tfrecord, the default of TFDS, needs it.
Images of one size are read into memory. With `data.image_size`, images of any size are streamed;
they have to be prepared as array_record.
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

from ist_jax.core.errors import first_line
from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.streamed import Columns, RawStream
from ist_jax.data.tfds_images import TEST_SPLITS, Records, fingerprint

_TFDS_FEATURES = "tensorflow_datasets.core.features."


def load(directory: str, dataset: str) -> Raw:
    """Reads the builder `dataset` in `directory`.

    The test split is 'test', or 'validation' if there is no 'test' with labels.

    Raises:
      DataError: the builder is not prepared there, is no image classification set, or has images of
        several sizes.
    """
    _check_prepared(directory, dataset, may_be_tfrecord=True)
    import tensorflow_datasets as tfds  # here, because it takes seconds

    with _reraise_as_data_error(directory, dataset):
        builder = tfds.builder(dataset, data_dir=directory)
        if None in _features(builder)["image"].shape:
            raise DataError(
                f"{dataset}: its images have several sizes: "
                "set data.image_size, such as 224, to stream them"
            )
        test = _test_split(builder)
        x_test, y_test = _arrays(builder, test)
        x_train, y_train = _arrays(builder, "train")
    return Raw(x_train, y_train, x_test, y_test, notes={"test split": test})


def stream(directory: str, dataset: str, image_size: int) -> RawStream:
    """Opens a builder whose images are decoded and resized while they are read.

    Args:
      directory: the data_dir.
      dataset: the builder. Its test split is 'test', or 'validation' if there is no 'test' with
        labels (`tfds_images.TEST_SPLITS`).
      image_size: side of the model's images, in pixels.

    Raises:
      DataError: the builder is not prepared there, or is no image classification set.
    """
    _check_prepared(directory, dataset)
    import tensorflow_datasets as tfds

    side, lock = round(image_size * 8 / 7), threading.Lock()
    with _reraise_as_data_error(directory, dataset):
        builder = tfds.builder(dataset, data_dir=directory)
        features = _features(builder)
        channels, classes = features["image"].shape[-1], features["label"].num_classes
        test = _test_split(builder)

        def columns(split: str) -> Columns:
            decoders = {"image": tfds.decode.SkipDecoding()}
            source = tfds.data_source(dataset, split=split, data_dir=directory, decoders=decoders)
            records = Records(source, f"{dataset}, split {split}", side, channels, classes, lock)
            return Columns(len(records), records.read)

        splits = columns("train"), columns(test)
        for split in splits:  # a test split without labels is an error before training
            split.read(np.array([0, split.count - 1]))
    shape = (image_size, image_size, channels)
    notes = {"test split": test, "images are resized to": side}
    files = pathlib.Path(builder.data_dir)
    return RawStream(*splits, classes, shape, fingerprint(files, side), notes)


def is_prepared(dataset: str, directory: str) -> bool:
    """Whether `directory` has the complete builder as array_record."""
    return "array_record" in _formats(dataset, directory)


def prepare(dataset: str, directory: str) -> None:
    """Downloads a builder and prepares it as array_record, unless `load` can read what is there.

    Raises:
      DataError: TensorFlow, which TFDS needs to prepare a builder, is not installed; or the folder
        has the builder in a format that cannot be read without it.
    """
    formats = _formats(dataset, directory)
    if "array_record" in formats or (formats and _has_tensorflow()):
        return
    if formats:
        raise DataError(
            f"{directory} holds {dataset!r} as {' and '.join(sorted(formats))}: "
            "prepare it in another folder"
        )
    if not _has_tensorflow():
        raise DataError(
            f"TFDS needs TensorFlow to prepare {dataset!r} (not to read it): pip install tensorflow"
        )
    import tensorflow_datasets as tfds

    tfds.builder(dataset, data_dir=directory, file_format="array_record").download_and_prepare()


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _infos(dataset: str, directory: str) -> list[pathlib.Path]:
    """The dataset_info.json of every version of a builder: NAME/[CONFIG/]VERSION.

    TFDS writes this file last, so a version that has it is complete.
    """
    folder = pathlib.Path(directory, dataset.replace(":", "/"))
    depths = ("", "*/", "*/*/")
    files = [file for depth in depths for file in folder.glob(f"{depth}dataset_info.json")]
    return [file for file in files if "incomplete" not in str(file)]


def _formats(dataset: str, directory: str) -> set[str]:
    """The file formats of the complete versions of a builder in `directory`."""
    formats = set()
    for file in _infos(dataset, directory):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            formats.add(str(json.loads(file.read_text()).get("fileFormat", "tfrecord")))
    return formats


def _check_prepared(directory: str, dataset: str, *, may_be_tfrecord: bool = False) -> None:
    """Raises DataError if the builder is not in `directory` in a format that can be read."""
    _check_name(dataset)
    formats = _formats(dataset, directory)
    can_read_tfrecord = may_be_tfrecord and _has_tensorflow()
    if "array_record" not in formats and not (formats and can_read_tfrecord):
        if formats:
            raise _wrong_format(directory, dataset, formats, may_be_tfrecord)
        raise _not_prepared(directory, dataset)
    _check_features(dataset, directory)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _check_name(dataset: str) -> None:
    if not dataset:
        raise DataError(
            "data.name='tfds' needs data.dataset, the name of a builder such as 'fashion_mnist'"
        )
    path = pathlib.PurePath(dataset)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"data.dataset={dataset!r} is the name of a builder in data.dir, and no path: "
            "such as 'fashion_mnist'"
        )


def _wrong_format(
    directory: str, dataset: str, formats: set[str], may_be_tfrecord: bool
) -> DataError:
    problem, remedy = "cannot be streamed", ""
    if may_be_tfrecord:
        problem, remedy = "TFDS does not read without TensorFlow", "install tensorflow, or "
    return DataError(
        f"data.dir={directory!r} holds {dataset!r} prepared as {' and '.join(sorted(formats))}, "
        f"which {problem}: {remedy}prepare it as array_record in another folder "
        "(ist_jax.data.tfds.prepare)"
    )


def _not_prepared(directory: str, dataset: str) -> DataError:
    names = [path.name for path in pathlib.Path(directory).glob("*/")]
    similar = [
        name for name in difflib.get_close_matches(dataset, names) if is_prepared(name, directory)
    ]
    remedy = f"did you mean {similar[0]!r}?" if similar else "ist_jax.data.tfds.prepare does that"
    return DataError(
        f"data.dir={directory!r} holds no TFDS builder {dataset!r} prepared as array_record: "
        f"{remedy}"
    )


def _check_features(dataset: str, directory: str) -> None:
    """Raises DataError if a builder's files name a module outside TFDS, which would import it."""
    for file in (info.with_name("features.json") for info in _infos(dataset, directory)):
        names: list[str] = []
        with contextlib.suppress(OSError, ValueError, RecursionError):  # TFDS explains damage
            names += _class_names(json.loads(file.read_text()))
        if foreign := [name for name in names if not name.startswith(_TFDS_FEATURES)]:
            raise DataError(
                f"{file}: {foreign[0]!r} is no feature of TFDS, which would import it: "
                "prepare it anew"
            )


def _class_names(tree: Any) -> Iterator[str]:
    """The Python classes that a features.json names, in either spelling that protobuf reads."""
    if isinstance(tree, dict):
        spellings = "pythonClassName", "python_class_name"
        yield from (str(tree[key]) for key in spellings if key in tree)
        tree = list(tree.values())
    for child in tree if isinstance(tree, list) else ():
        yield from _class_names(child)


def _test_split(builder: Any) -> str:
    """'test', or 'validation' if no 'test' has labels. Raises ValueError if a split is missing."""
    default = "test" if "test" in builder.info.splits else "validation"
    name = TEST_SPLITS.get(builder.name, default)
    if missing := {"train", name} - set(builder.info.splits):
        present = f"{', '.join(builder.info.splits)}, and no {' and no '.join(sorted(missing))}"
        raise ValueError(
            f"a set has a split train, and a split test or validation; this one has {present}"
        )
    return name


@contextlib.contextmanager
def _reraise_as_data_error(directory: str, dataset: str) -> Iterator[None]:
    """Re-raises what TFDS raises as a DataError of one line."""
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"{dataset}: expected features 'image' and 'label', {error} is missing"
        ) from error
    except DataError:
        raise
    except Exception as error:  # damaged files raise whatever TFDS, array_record and protobuf do
        raise DataError(
            f"{dataset} in {directory}: TFDS cannot read it: {first_line(error)}"
        ) from error


def _features(builder: Any) -> Any:
    """The description of the columns of an image classification set, by name."""
    return builder.info.features


def _arrays(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels int64[N] of a split."""
    num_examples = builder.info.splits[split].num_examples
    rows = list(progress(_source(builder, split), "reading TFDS", num_examples))
    labels = np.array([row["label"] for row in rows], np.int64)
    return np.stack([row["image"] for row in rows]), labels


def _source(builder: Any, split: str) -> Iterable[Any]:
    """The examples of a split, in the order of their files."""
    import tensorflow_datasets as tfds

    if builder.info.file_format.value == "array_record":
        return builder.as_data_source(split=split)
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]  # it is optional

    tf.config.set_visible_devices([], "GPU")  # it would take nearly all of the memory
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order))
