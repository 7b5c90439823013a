"""Loaders on real and on broken files, and how workers see the data."""

import gzip
import sys

import numpy as np
import pytest
from idx_files import write_idx

from ist_jax import data
from ist_jax.data import DataError, Raw, make_dataset
from ist_jax.data.splits import dirichlet, disjoint, shared


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 50), ("t10k", 20)):
        write_idx(
            tmp_path / f"{part}-images-idx3-ubyte",
            rng.integers(0, 256, (count, 4, 3), dtype=np.uint8),
        )
        labels = (np.arange(count) % 5).astype(np.uint8)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels, pack=gzip.open)
    return tmp_path


def test_digits_are_real_and_split_three_ways():
    digits = data.load("digits")
    assert digits.num_classes == 10 and digits.example.shape == (1, 64)
    assert len(digits.train["y"]) + len(digits.validation["y"]) + len(digits.test["y"]) == 1797
    assert not digits.warnings and not data.load("digits", dataset="images").warnings
    assert digits.fingerprint == data.load("digits", seed=5).fingerprint, (
        "splits are the same for every seed"
    )
    assert digits.fingerprint != data.load("digits", validation_fraction=0.2).fingerprint
    rows = {
        part: {row.tobytes() for row in getattr(digits, part)["x"]}
        for part in ("train", "validation", "test")
    }
    assert not rows["train"] & rows["validation"] and not rows["train"] & rows["test"]


def test_idx_files_gzipped_or_not(idx_folder):
    loaded = data.load("idx", str(idx_folder), validation_fraction=0.2)
    assert loaded.train["x"].shape == (40, 4, 3) and loaded.train["x"].dtype == np.uint8
    assert len(loaded.validation["y"]) == 10 and len(loaded.test["y"]) == 20
    assert loaded.name == idx_folder.name


def test_real_fashion_mnist(real_data):
    loaded = data.load("idx", str(real_data / "fashion_mnist"))
    assert loaded.train["x"].shape == (54000, 28, 28) and loaded.test["x"].shape == (10000, 28, 28)
    assert np.bincount(loaded.test["y"]).tolist() == [1000] * 10
    assert not loaded.warnings
    assert loaded.mean == pytest.approx(72.94, abs=0.1) and loaded.std == pytest.approx(
        90.02, abs=0.1
    )


@pytest.mark.slow
def test_real_tfds_without_tensorflow(real_data):
    """Also where it is installed: reading does not import it."""
    loaded = data.load("tfds", str(real_data / "tfds"), "fashion_mnist")
    assert (
        loaded.train["x"].shape == (54000, 28, 28, 1)
        and np.bincount(loaded.test["y"]).tolist() == [1000] * 10
    )
    assert "tensorflow" not in sys.modules and not loaded.warnings


def test_real_cifar_as_npz(real_data):
    loaded = data.load("npz", str(real_data / "cifar10_small.npz"))
    assert loaded.train["x"].shape == (9000, 32, 32, 3) and loaded.num_classes == 10
    assert not loaded.warnings


def raw(**changes):
    arrays = dict(
        x_train=np.ones((20, 3), np.float32),
        y_train=np.arange(20) % 4,
        x_test=np.ones((8, 3), np.float32),
        y_test=np.arange(8) % 4,
    )
    return Raw(**(arrays | changes))


@pytest.mark.parametrize(
    "changes,says",
    [
        (
            {"x_train": np.ones((19, 3))},
            r"one label per example; train inputs have shape \(19, 3\), labels \(20,\)",
        ),
        ({"x_train": np.ones((0, 3)), "y_train": np.ones(0, int)}, "there are no train examples"),
        ({"x_test": np.ones((8, 4))}, r"train inputs have shape \(3,\), test inputs \(4,\)"),
        (
            {"y_test": np.ones(8)},
            "classes are integers; test labels have dtype float64: use y.astype.int.",
        ),
        (
            {"y_test": np.linspace(0, 1, 8)},
            "classes are integers; test labels have dtype float64: make classes of them, np.digit",
        ),
        (
            {"y_train": np.full(20, "yes")},
            "classes are integers; train labels have dtype <U3: number the classes from 0",
        ),
        (
            {"y_train": np.ones((20, 3), int)},
            r"one label per example; .*: train on one of them, y\[:, k\], or on all as numbers",
        ),
        (
            {"y_train": np.eye(4, dtype=int)[np.arange(20) % 4]},
            "one label per example; .*: use y.argmax.axis=1.",
        ),
        (
            {"y_train": (np.arange(20) % 4)[:, None]},
            "one label per example; .*: use y.:, 0.",
        ),
        (
            {"y_train": np.arange(20) - 1},
            "labels count from 0; the smallest train label is -1: number the classes from 0",
        ),
        ({"y_test": np.arange(8)}, "test label 7 never occurs in training, whose largest is 3"),
        (
            {"x_train": np.full((20, 3), np.nan)},
            "inputs are finite in float32; some train inputs are nan, inf",
        ),
        ({"x_train": np.full((20, 3), "a")}, "inputs are numbers"),
        (
            {"x_train": np.ones(20)},
            "inputs have an example axis and at least one more; .*: x.:, None. makes one feature",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(DataError, match=f"^somewhere: {says}"):
        make_dataset(
            raw(**changes), "x", source="somewhere", validation_fraction=0.2, shards=shared
        )


def test_an_empty_split_is_refused():
    with pytest.raises(
        DataError, match="validation_fraction=0.01 of 20 training examples leaves an empty split"
    ):
        make_dataset(raw(), "x", source="somewhere", validation_fraction=0.01, shards=shared)


def damage_missing(folder):
    (folder / "train-images-idx3-ubyte").unlink()


def damage_empty(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(b"")


def damage_truncated(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])


def damage_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])


def damage_kind(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"PK\x03\x04 not an idx file")


def damage_axes(folder):
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((20, 12), np.uint8))


@pytest.mark.parametrize(
    "damage,says",
    [
        (damage_missing, "train-images-idx3-ubyte .* is missing"),
        (damage_empty, "train-images-idx3-ubyte: the file is empty"),
        (
            damage_truncated,
            r"train-images-idx3-ubyte: truncated or damaged: "
            r"the header announces shape \(50, 4, 3\), 600 bytes, and 593",
        ),
        (damage_gzip, "train-labels-idx1-ubyte.gz: damaged or truncated gzip"),
        (damage_kind, "t10k-images-idx3-ubyte: not an idx file"),
        (damage_axes, r"t10k-images-idx3-ubyte: .* 3 axes is expected, not shape \(20, 12\)"),
    ],
)
def test_broken_idx_files_are_named(idx_folder, damage, says):
    damage(idx_folder)
    with pytest.raises(DataError, match=says):
        data.load("idx", str(idx_folder))


def test_broken_npz_files_are_named(tmp_path):
    path = tmp_path / "mine.npz"
    with pytest.raises(DataError, match="mine.npz' is not a file"):
        data.load("npz", str(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="mine.npz: the file is empty"):
        data.load("npz", str(path))
    np.savez(path, x_train=np.ones((3, 2)))
    with pytest.raises(DataError, match="y_train, x_test, y_test missing; it holds x_train"):
        data.load("npz", str(path))
    np.savez(path, data=np.ones((3, 2)), target=np.arange(3))
    with pytest.raises(DataError, match="it holds data, target: divide one table by sklearn"):
        data.load("npz", str(path))
    np.savez(path, **raw()._asdict())
    assert data.load("npz", str(path)).num_classes == 4
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="mine.npz: cannot be read"):
        data.load("npz", str(path))
    np.savez(path, **(raw()._asdict() | {"y_test": np.array([{}] * 8, object)}))
    with pytest.raises(DataError, match="pickled"):
        data.load("npz", str(path))


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="'nowhere' is not a folder"):
        data.load("idx", "nowhere")
    with pytest.raises(DataError, match="holds no TFDS builder 'cifar10' prepared as array_record"):
        data.load("tfds", str(tmp_path), "cifar10")
    with pytest.raises(DataError, match="needs data.dataset"):
        data.load("tfds", str(tmp_path))
    with pytest.raises(ValueError, match="data.name is one of"):
        data.load("imagenet")


Y = np.repeat(np.arange(5), [10, 20, 30, 40, 7])


@pytest.mark.parametrize(
    "make",
    [lambda s: disjoint(Y, s, 0), lambda s: dirichlet(Y, s, 0, 0.3)],
    ids=["disjoint", "dirichlet"],
)
@pytest.mark.parametrize("num_workers", [1, 3, 4])
def test_shards_cover_every_example_once(make, num_workers):
    shards = make(num_workers)
    assert sorted(shards.member_N) == list(range(len(Y)))
    assert shards.size_S.sum() == len(Y) and shards.size_S.min() > 0
    np.testing.assert_array_equal(shards.start_S, np.cumsum(shards.size_S) - shards.size_S)


def test_disjoint_shards_are_even_and_dirichlet_ones_are_not():
    assert np.ptp(disjoint(Y, 4, 0).size_S) <= 1
    mixes = {}
    for alpha in (0.1, 1000.0):
        shards = dirichlet(Y, 4, 0, alpha)
        parts = np.split(Y[shards.member_N], np.cumsum(shards.size_S)[:-1])
        shares = np.stack([np.bincount(part, minlength=5) / len(part) for part in parts])
        mixes[alpha] = shares.max(axis=1).mean()
    assert mixes[0.1] > 0.55 > mixes[1000.0]


def test_too_many_workers_for_the_data_are_refused():
    with pytest.raises(DataError, match="every worker needs an example"):
        disjoint(Y[:3], 4, 0)
    with pytest.raises(DataError, match="alpha=0.01 leaves some of 40 workers"):
        dirichlet(Y[:50], 40, 0, 0.01)
