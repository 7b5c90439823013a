"""CIFAR from its binary folders."""

import numpy as np
import pytest

from ist_jax import data
from ist_jax.data import DataError


def write_folder(folder, name, counts=(10, 10, 10, 10, 10, 8), classes=10):
    """The six files of CIFAR-10 with `counts` records; returns images and labels by file."""
    rng, written = np.random.default_rng(0), {}
    folder = folder / name
    folder.mkdir()
    files = (
        [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        if classes == 10
        else ["train.bin", "test.bin"]
    )
    for file, count in zip(files, counts):
        image = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        label = (np.arange(count) % classes).astype(np.uint8)
        coarse = [] if classes == 10 else [(label // 5)[:, None]]
        planes = image.transpose(0, 3, 1, 2).reshape(count, -1)
        (folder / file).write_bytes(
            np.concatenate([*coarse, label[:, None], planes], axis=1).tobytes()
        )
        written[file] = (image, label)
    return folder, written


@pytest.mark.parametrize("inside", [True, False])
def test_cifar10_images_are_rows_of_pixels_of_three_colours(tmp_path, inside):
    folder, written = write_folder(tmp_path, "cifar-10-batches-bin")
    loaded = data.load("cifar10", str(folder if inside else tmp_path), validation_fraction=0.2)
    assert (
        loaded.train["x"].shape == (40, 32, 32, 3)
        and loaded.train["x"].dtype == np.uint8
        and loaded.num_classes == 10
    )
    np.testing.assert_array_equal(loaded.test["x"], written["test_batch.bin"][0])
    np.testing.assert_array_equal(loaded.test["y"], written["test_batch.bin"][1])
    everything = {
        image.tobytes()
        for file, (images, _) in written.items()
        if "data" in file
        for image in images
    }
    assert {
        image.tobytes() for part in (loaded.train, loaded.validation) for image in part["x"]
    } == everything


def test_cifar100_has_the_fine_labels(tmp_path):
    folder, written = write_folder(tmp_path, "cifar-100-binary", (200, 100), classes=100)
    loaded = data.load("cifar100", str(folder))
    assert loaded.num_classes == 100
    np.testing.assert_array_equal(loaded.test["y"], written["test.bin"][1])


@pytest.mark.parametrize("classes,counts", [(10, (10, 10, 10, 10, 10, 8)), (100, (200, 100))])
def test_the_same_images_have_one_fingerprint_as_npz_and_as_binary_folder(
    tmp_path, classes, counts
):
    name = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}[classes]
    _, written = write_folder(tmp_path, name, counts, classes)
    *train, test = written.values()
    x_train, y_train = (np.concatenate(arrays) for arrays in zip(*train))
    np.savez(
        tmp_path / "images.npz", x_train=x_train, y_train=y_train, x_test=test[0], y_test=test[1]
    )
    binary, npz = (
        data.load(f"cifar{classes}", str(tmp_path)),
        data.load("npz", str(tmp_path / "images.npz")),
    )
    assert npz.num_classes == classes and npz.fingerprint == binary.fingerprint


def test_a_broken_folder_raises_an_error_that_names_the_file(tmp_path):
    folder, _ = write_folder(tmp_path, "cifar-10-batches-bin")
    with pytest.raises(
        DataError, match=r"is not the folder cifar-100-binary: train.bin, test.bin missing"
    ):
        data.load("cifar100", str(folder))
    batch = folder / "data_batch_3.bin"
    for content, says in (
        (b"", "one or more records of 3073 bytes, and it has 0: it is empty or truncated"),
        (batch.read_bytes()[:-1], "one or more records of 3073 bytes, and it has 30729"),
        (b"\x0a" + batch.read_bytes()[1:], "labels are below 10, and one is 10"),
    ):
        batch.write_bytes(content)
        with pytest.raises(DataError, match=says):
            data.load("cifar10", str(folder))
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin missing"):
        data.load("cifar10", str(folder))


def test_real_images_survive_the_binary_format(real_data, tmp_path):
    """A subset of CIFAR-10, written in the binary format and read again."""
    with np.load(real_data / "cifar10_small.npz") as arrays:
        image, label = arrays["x_train"][:500], arrays["y_train"][:500].astype(np.uint8)
    planes = np.concatenate([label[:, None], image.transpose(0, 3, 1, 2).reshape(500, -1)], axis=1)
    for i in range(5):
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(
            planes[100 * i : 100 * (i + 1)].tobytes()
        )
    (tmp_path / "test_batch.bin").write_bytes(planes.tobytes())
    loaded = data.load("cifar10", str(tmp_path))
    np.testing.assert_array_equal(loaded.test["x"], image)
    np.testing.assert_array_equal(loaded.test["y"], label)
