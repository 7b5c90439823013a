"""Prepared TFDS builders: images of one size in memory, images of any size streamed from disk."""

import io
import itertools
import threading

import numpy as np
import pytest
from PIL import Image
from prepared import encoded, varied, write_builder

from ist_jax import data
from ist_jax.cli.commands import run as command
from ist_jax.data import DataError, Streamed, tfds, tfds_images
from ist_jax.data.tfds_images import Records, decode


@pytest.fixture
def folder(tmp_path):
    return write_builder(tmp_path, "pictures", {"train": varied(80), "test": varied(20, seed=1)})


@pytest.mark.parametrize("name,version", [("svhn_cropped", "3.1.0"), ("cifar10", "3.0.2")])
def test_a_builder_of_images_of_one_size_by_its_name(tmp_path, name, version):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    files = [(encoded(image, "PNG"), i % 10) for i, image in enumerate(images)]
    splits = {"train": files[:20], "test": files[20:], "extra": files[:5]}
    write_builder(tmp_path, name, splits, (32, 32, 3), 10, "png", version)
    loaded = data.load("tfds", str(tmp_path), name)
    assert loaded.train["x"].shape == (18, 32, 32, 3) and loaded.num_classes == 10
    np.testing.assert_array_equal(loaded.test["x"], images[20:])


def test_a_builder_by_its_version_and_one_whose_test_split_is_called_validation(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    files = [(encoded(image, "PNG"), i % 3) for i, image in enumerate(images)]
    write_builder(
        tmp_path,
        "patches",
        {"train": files[:20], "validation": files[20:]},
        (8, 8, 3),
        3,
        "png",
        "1.2.0",
    )
    loaded = data.load("tfds", str(tmp_path), "patches:1.2.0")
    np.testing.assert_array_equal(loaded.test["x"], images[20:])
    assert (
        loaded.notes["test split"] == "validation"
        and loaded.fingerprint == data.load("tfds", str(tmp_path), "patches").fingerprint
    )
    with pytest.raises(DataError, match="holds no TFDS builder 'patches:2.0.0'"):
        data.load("tfds", str(tmp_path), "patches:2.0.0")
    with pytest.raises(DataError, match="did you mean 'patches'"):
        data.load("tfds", str(tmp_path), "pathces")
    write_builder(
        tmp_path, "halves", {"train": files[:20], "extra": files[20:]}, (8, 8, 3), 3, "png", "1.0.0"
    )
    for image_size in (0, 7):
        with pytest.raises(DataError, match="this one has .*extra.*, and no validation"):
            data.load("tfds", str(tmp_path), "halves", image_size=image_size)


def test_a_builder_prepared_as_tfrecord_is_read_with_tensorflow(tmp_path):
    pytest.importorskip("tensorflow")
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    files = [(encoded(image, "PNG"), i % 3) for i, image in enumerate(images)]
    loaded = {}
    for kept_as in ("tfrecord", "array_record"):
        folder = tmp_path / kept_as
        write_builder(
            folder,
            "patches",
            {"train": files[:20], "test": files[20:]},
            (8, 8, 3),
            3,
            "png",
            kept_as=kept_as,
        )
        loaded[kept_as] = data.load("tfds", str(folder), "patches")
    assert loaded["tfrecord"].fingerprint == loaded["array_record"].fingerprint
    np.testing.assert_array_equal(loaded["tfrecord"].test["x"], images[20:])


def test_a_tfrecord_that_cannot_be_read_raises_an_error_with_a_remedy(tmp_path, monkeypatch):
    """It cannot be read without TensorFlow, be streamed, or be prepared again in its place."""
    (tmp_path / "patches" / "1.0.0").mkdir(parents=True)
    (tmp_path / "patches" / "1.0.0" / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    monkeypatch.setattr(tfds, "_has_tensorflow", lambda: False)
    with pytest.raises(
        DataError,
        match="as tfrecord, which TFDS does not read without TensorFlow: install tensorflow, or",
    ):
        data.load("tfds", str(tmp_path), "patches")
    with pytest.raises(
        DataError,
        match="as tfrecord, which cannot be streamed: prepare it as array_record in another",
    ):
        data.load("tfds", str(tmp_path), "patches", image_size=14)
    with pytest.raises(
        DataError, match="holds 'patches' as tfrecord: prepare it in another folder"
    ):
        tfds.prepare("patches", str(tmp_path))


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", r"python\u0043lassName"])
def test_modules_that_a_builders_files_name_are_not_imported(tmp_path, key, monkeypatch):
    write_builder(
        tmp_path, "patches", {"train": varied(8), "test": varied(4)}, kept_as="array_record"
    )
    features, trap = (
        tmp_path / "patches" / "1.0.0" / "features.json",
        tmp_path / "modules" / "of_a_stranger.py",
    )
    trap.parent.mkdir()
    trap.write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(trap.parent)
    own = '"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"'
    assert own in features.read_text()
    features.write_text(features.read_text().replace(own, f'"{key}": "of_a_stranger.Label"'))
    with pytest.raises(
        DataError, match="'of_a_stranger.Label' is no feature of TFDS, which would import it"
    ):
        data.load("tfds", str(tmp_path), "patches", image_size=7)


@pytest.mark.parametrize("dataset", ["..", "patches/..", "/patches", "../patches"])
def test_a_path_instead_of_a_builders_name_raises_an_error(tmp_path, dataset):
    with pytest.raises(DataError, match="is the name of a builder in data.dir, and no path"):
        data.load("tfds", str(tmp_path), dataset)


def test_folders_that_hold_no_builder_of_that_name_are_not_searched(tmp_path):
    """Such as a home folder: only folders named like the builder are read, two levels deep."""
    deep = tmp_path / "patches" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    (tmp_path / "other").mkdir(mode=0)
    with pytest.raises(DataError, match="holds no TFDS builder 'patches' prepared as array_record"):
        data.load("tfds", str(tmp_path), "patches")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "description"])
@pytest.mark.parametrize("image_size", [0, 7])
def test_a_damaged_builder_raises_an_error_of_one_line(damage, image_size, tmp_path):
    files = [
        (encoded(image, "PNG"), i % 3) for i, image in enumerate(np.zeros((30, 8, 8, 3), np.uint8))
    ]
    write_builder(
        tmp_path, "patches", {"train": files[:20], "test": files[20:]}, (8, 8, 3), 3, "png"
    )
    folder = tmp_path / "patches" / "1.0.0"
    (shard,) = folder.glob("*-train.*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "missing": shard.unlink,
        "empty": lambda: shard.write_bytes(b""),
        "truncated": lambda: shard.write_bytes(content[: len(content) // 2]),
        "flipped": lambda: shard.write_bytes(content),
        "description": lambda: (folder / "dataset_info.json").write_text(
            '{"fileFormat": "array_record", "colour": 1}'
        ),
    }[damage]()
    with pytest.raises(DataError, match="patches") as error:
        data.load("tfds", str(tmp_path), "patches", image_size=image_size).calibration(4)
    assert "\n" not in str(error.value)


def test_an_images_central_square_is_resized():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the central square
    made = decode(encoded(image, "PNG"), 20, 3)
    assert (
        made.shape == (20, 20, 3)
        and made.dtype == np.uint8
        and (made[:, 1:-1] == 200).all()
        and made.min() > 100
    )
    upright = decode(encoded(image.swapaxes(0, 1), "PNG"), 20, 1)
    assert upright.shape == (20, 20, 1) and (upright[1:-1] == 200).all(), (
        "also of an upright one, in grey"
    )


def test_a_streamed_example_is_its_file_decoded(folder):
    loaded = data.load("tfds", str(folder), "pictures", image_size=14)
    assert (
        isinstance(loaded, Streamed)
        and loaded.spec.example_shape == (14, 14, 3)
        and loaded.num_classes == 4
    )
    assert (loaded.num_train, len(loaded.validation["y"]), len(loaded.test["y"])) == (72, 8, 20)
    rows, files = np.array([7, 0, 7]), list(varied(20, seed=1))
    np.testing.assert_array_equal(loaded.test["y"][rows], [files[row][1] for row in rows])
    np.testing.assert_array_equal(
        loaded.test["x"][rows], [decode(files[row][0], 16, 3) for row in rows]
    )
    assert {len(set(Image.open(io.BytesIO(file)).size)) for file, _ in files} == {2}, (
        "of varied sizes"
    )
    assert loaded.notes["test split"] == "test" and loaded.notes["images are resized to"] == 16
    assert (
        loaded.fingerprint == data.load("tfds", str(folder), "pictures", image_size=14).fingerprint
    )
    assert (
        loaded.fingerprint != data.load("tfds", str(folder), "pictures", image_size=21).fingerprint
    )


class Counted(list):
    """Records of a data source, and the rows that were asked for."""

    def __getitems__(self, rows):
        self.asked = [*getattr(self, "asked", []), *rows]
        return [self[row] for row in rows]


def test_a_record_is_read_once_for_its_image_and_its_label(monkeypatch):
    """Also of more records than are read at once."""
    monkeypatch.setattr(tfds_images, "_AT_ONCE", 3)
    files = list(varied(9))
    source = Counted({"image": file, "label": label} for file, label in files)
    made = Records(source, "pictures", 8, 3, 9, threading.Lock()).read(
        np.array([5, 0, 5, 8, 2, 1, 3])
    )
    assert source.asked == [5, 0, 5, 8, 2, 1, 3]
    np.testing.assert_array_equal(made["y"], [files[row][1] for row in source.asked])
    np.testing.assert_array_equal(made["x"], [decode(files[row][0], 8, 3) for row in source.asked])


def test_labels_out_of_range_and_images_that_pillow_refuses_raise_an_error(monkeypatch):
    """TFDS accepts any number as a label."""
    files = list(varied(4))
    for label in (-1, 3):
        source = Counted(
            {"image": file, "label": label if i == 2 else 0} for i, (file, _) in enumerate(files)
        )
        with pytest.raises(
            DataError, match=rf"pictures: labels are from 0 to 2; example 2 has {label}"
        ):
            Records(source, "pictures", 8, 3, 3, threading.Lock()).read(np.arange(4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    source = Counted({"image": file, "label": 0} for file, _ in files)
    with pytest.raises(
        DataError, match=r"example 0 is no image that can be read \(Image size .* exceeds limit"
    ):
        Records(source, "pictures", 8, 3, 3, threading.Lock()).read(np.arange(4))


def test_a_test_split_without_labels_raises_an_error_when_it_is_opened(tmp_path):
    write_builder(
        tmp_path, "pictures", {"train": varied(8), "test": ((file, -1) for file, _ in varied(4))}
    )
    with pytest.raises(
        DataError, match="pictures, split test: labels are from 0 to 3; example 0 has -1"
    ):
        data.load("tfds", str(tmp_path), "pictures", image_size=14)


def test_imagenets_test_split_is_its_validation_split(tmp_path):
    splits = {
        "train": varied(20),
        "validation": varied(12),
        "test": ((file, 0) for file, _ in varied(5)),
    }
    write_builder(tmp_path, "imagenet2012", splits, version="5.1.0")
    loaded = data.load("tfds", str(tmp_path), "imagenet2012", image_size=14)
    assert len(loaded.test["y"]) == 12 and loaded.notes["test split"] == "validation"


def test_sets_that_cannot_be_streamed_raise_an_error(folder, tmp_path):
    with pytest.raises(DataError, match="several sizes: set data.image_size"):
        data.load("tfds", str(folder), "pictures")
    with pytest.raises(DataError, match="'dirichlet' needs all labels in memory"):
        data.load("tfds", str(folder), "pictures", image_size=14, split="dirichlet")
    with pytest.raises(DataError, match="image_size=14 streams images of"):
        data.load("digits", image_size=14)
    bad = write_builder(
        tmp_path / "bad", "pictures", {"train": [(b"no image", 0)] * 4, "test": varied(2)}
    )
    with pytest.raises(
        DataError, match=r"pictures, split train: example \d is no image that can be read"
    ):
        data.load("tfds", str(bad), "pictures", image_size=14, validation_fraction=0.5)


@pytest.mark.slow
def test_a_run_streams_and_never_has_the_whole_set_in_memory(folder, tmp_path, monkeypatch):
    """A round reads 16 of 72 training examples (2 workers, 2 steps of 4); evaluation reads 8."""
    monkeypatch.setattr("ist_jax.data.streamed._CHUNK", 8)
    monkeypatch.setattr("ist_jax.data.streamed._SAMPLE", 16)
    read, plain = [], tfds_images.Records.read
    monkeypatch.setattr(
        tfds_images.Records, "read", lambda self, rows: read.append(len(rows)) or plain(self, rows)
    )
    fields = [
        "data.name=tfds",
        f"data.dir={folder}",
        "data.dataset=pictures",
        "data.image_size=14",
        "num_subnets=2",
    ]
    fields += [
        "data.augment=resized_crop_flip",
        "model.name=resnet",
        "model.stage_sizes 1 3",
        "model.width=4",
    ]
    fields += [
        "split_stages=2",
        "batch_size=4",
        "local_steps=2",
        "epochs=2.0",
        "eval_every=4",
        "eval_batch_size=8",
    ]
    fields += [
        "calibration_examples=16",
        "placement=looped",
        "time_syncs=False",
        "optimizer.learning_rate=0.05",
    ]
    assert (
        command.main(
            [
                "run",
                "--config=experiments/demo/digits.py",
                *itertools.chain.from_iterable(f"--{field}".split() for field in fields),
                f"--workdir={tmp_path}/run",
            ]
        )
        == 0
    )
    assert max(read) == 16 and sum(read) > 2 * 72, (
        "more than the set was read, never more than a round's at once"
    )
