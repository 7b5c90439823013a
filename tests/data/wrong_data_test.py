"""Wrong data from the command line: a line that names file and remedy, and exit status 2, soon."""

import gzip
import io
import re
import time
import zipfile

import numpy as np
import pytest
from command_line import DIGITS
from idx_files import write_idx

from ist_jax import data
from ist_jax.cli.commands import export, run
from ist_jax.cli.config import ConfigError

X, Y = np.random.default_rng(0).random((40, 3, 2), np.float32), np.arange(40) % 4


def npz(**changes):
    """Writes an .npz with these arrays changed (None: omitted); returns the options to read it."""

    def make(folder):
        arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y} | changes
        np.savez(
            folder / "data.npz",
            **{name: array for name, array in arrays.items() if array is not None},
        )
        return ["npz", folder / "data.npz"]

    return make


def put(array, value):
    changed = array.copy()
    changed.flat[7] = value
    return changed


def content(name, file, change):
    """Writes bytes to one file of a source."""

    def make(folder):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(change)
        return [name, folder / file if name == "npz" else folder]

    return make


def truncated_npz(folder):
    _, path = npz()(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return ["npz", path]


def promising(*shape):
    """An .npz whose x_train says that it has another shape than its content."""

    def make(folder):
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(folder / "data.npz", "w") as archive:
            archive.writestr("x_train.npy", buffer.getvalue() + X.tobytes())
            for name, array in {"y_train": Y, "x_test": X, "y_test": Y}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, array)
        return ["npz", folder / "data.npz"]

    return make


def idx_header(header, pack=open):
    """idx files, those of the training images with another header."""

    def make(folder):
        write_idx(folder / "train-images-idx3-ubyte", np.zeros((40, 2, 2), np.uint8))
        for part, axes, shape in (
            ("train-labels", 1, (40,)),
            ("t10k-images", 3, (40, 2, 2)),
            ("t10k-labels", 1, (40,)),
        ):
            write_idx(folder / f"{part}-idx{axes}-ubyte", np.zeros(shape, np.uint8))
        file = folder / "train-images-idx3-ubyte"
        content = file.read_bytes()[16:]
        file.unlink()
        with pack(file.with_suffix(".gz" if pack is gzip.open else ""), "wb") as changed:
            changed.write(header + content)
        return ["idx", folder]

    return make


HUGE = b"\x00\x00\x08\x03" + 3 * b"\xff\xff\xff\xff"
CASES = {
    "an .npz that announces more than any memory": (
        promising(1 << 40, 6),
        "data.npz: its files announce arrays that cannot be made",
    ),
    "an .npz of a negative size": (promising(-5, 6), "data.npz"),
    "an .npz of a size beyond 64 bits": (
        promising(1 << 62, 1 << 10),
        "data.npz: its files announce arrays that cannot be made",
    ),
    "an idx file that announces too much": (
        idx_header(HUGE),
        "its files announce arrays that cannot be made",
    ),
    "a packed idx file that announces too much": (
        idx_header(HUGE, gzip.open),
        "its files announce arrays that cannot be made",
    ),
    "an idx file of 255 axes": (
        idx_header(b"\x00\x00\x08\xff" + 255 * b"\x00\x00\x00\x01"),
        "that cannot be|255|axes",
    ),
    "nan in the inputs": (
        npz(x_train=put(X, np.nan)),
        "data.npz: inputs are finite in float32; some train inputs are nan, inf",
    ),
    "infinity in the test inputs": (npz(x_test=put(X, np.inf)), "test inputs are nan, inf"),
    "a negative label": (
        npz(y_train=put(Y, -1)),
        "labels count from 0; the smallest train label is -1",
    ),
    "a test label out of range": (
        npz(y_test=put(Y, 9)),
        "test label 9 never occurs in training, whose largest is 3",
    ),
    "labels that are no integers": (
        npz(y_test=Y / 2),
        "classes are integers; test labels have dtype float64",
    ),
    "fewer labels than inputs": (npz(y_train=Y[:-1]), "one label per example"),
    "labels with two axes": (npz(y_train=np.eye(40, dtype=int)), "one label per example"),
    "a table of one label per example": (
        npz(y_train=np.eye(4)[Y], y_test=np.eye(4)[Y]),
        "may mean classes or labels: use y.argmax.axis=1. for classes, or data.task=multi",
    ),
    "targets that are nan": (npz(y_train=put(Y / 2, np.nan)), "targets are finite in float32"),
    "no training examples": (npz(x_train=X[:0], y_train=Y[:0]), "there are no train examples"),
    "no test examples": (npz(x_test=X[:0], y_test=Y[:0]), "there are no test examples"),
    "inputs without features": (npz(x_train=X[:, 0, 0]), "an example axis and at least one more"),
    "inputs that are words": (npz(x_train=np.full((40, 2), "a")), "inputs are numbers"),
    "test inputs of another shape": (
        npz(x_test=X[:, :2]),
        r"train inputs have shape \(3, 2\), test inputs \(2, 2\)",
    ),
    "an array that is missing": (npz(y_test=None), "y_test missing; it holds x_train"),
    "pickled objects": (npz(x_train=np.array([print] * 40)), "cannot be read as .npz .*pickle"),
    "too few to validate": (
        npz(x_train=X[:2], y_train=Y[:2], y_test=Y % 2),
        "validation_fraction=0.2 of 2 .* empty split",
    ),
    "a truncated archive": (truncated_npz, "cannot be read as .npz"),
    "an empty file": (content("npz", "data.npz", b""), "the file is empty"),
    "a file of another kind": (content("npz", "data.npz", b"hello"), "cannot be read as .npz"),
    "a file that is missing": (
        lambda folder: ["npz", folder / "none.npz"],
        "is not a file; npz needs one",
    ),
    "idx files that are missing": (
        content("idx", "train-images-idx3-ubyte", b""),
        "train-labels-idx1-ubyte .* is missing",
    ),
    "an enormous label": (
        npz(y_train=put(Y, 4_000_000_000)),
        "40 training examples have a label 4000000000",
    ),
    "inputs beyond float32": (
        npz(x_train=put(X.astype(float), 1e300)),
        "inputs are finite in float32",
    ),
    "inputs of no entries": (
        npz(x_train=X[:, :0], x_test=X[:, :0]),
        "inputs have at least one entry",
    ),
    "no idx folder": (lambda folder: ["idx", folder / "none"], "is not a folder; idx needs one"),
    "no CIFAR folder": (
        lambda folder: ["cifar10", folder / "none"],
        "is not the folder cifar-10-batches-bin",
    ),
    "no prepared builder": (
        lambda folder: ["tfds", folder],
        "needs data.dataset, the name of a builder",
    ),
    "no words": (
        lambda folder: ["speech_commands", folder],
        "at least two words .* and here are 0",
    ),
}


def test_a_flipped_byte_anywhere_in_an_archive_raises_an_error_of_one_line_or_none(
    tmp_path, capsys
):
    """Some bytes do not matter: time stamps and padding."""
    _, path = npz()(tmp_path)
    whole = path.read_bytes()
    for position in [*range(0, 140, 9), *range(len(whole) - 300, len(whole), 11)]:
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        try:
            data.load("npz", str(path))
        except data.DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("case", CASES)
def test_wrong_data_end_a_run_with_one_line_and_status_2(case, tmp_path, capsys):
    make, says = CASES[case]
    source, path = make(tmp_path)
    began = time.perf_counter()
    arguments = [
        f"--data.name={source}",
        f"--data.dir={path}",
        f"--workdir={tmp_path}/run",
    ]
    assert run.main(["run", DIGITS, *arguments]) == 2
    assert time.perf_counter() - began < 5
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(says, error), error
    assert not (tmp_path / "run").exists(), "nothing was started"


@pytest.mark.parametrize(
    "split,says",
    [
        (
            ["--data.split=disjoint", "--num_subnets=32"],
            "every worker needs an example",
        ),
        (
            [
                "--data.split=dirichlet",
                "--data.alpha=0.001",
                "--num_subnets=8",
            ],
            "alpha=0.001 leaves some",
        ),
    ],
)
def test_a_split_that_leaves_a_worker_without_examples_ends_a_run_before_it_starts(
    split, says, tmp_path, capsys
):
    _, path = npz(x_train=X[:24], y_train=Y[:24])(tmp_path)
    arguments = [
        "--data.name=npz",
        f"--data.dir={path}",
        "--batch_size=2",
        f"--workdir={tmp_path}/run",
    ]
    assert run.main(["run", DIGITS, *arguments, *split, "--model.hidden", "64", "64"]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_is_neither_resumed_nor_exported_on_changed_data(tmp_path, capsys):
    """And nothing in its workdir changes."""
    _, path = npz()(tmp_path)
    arguments = [
        "--data.name=npz",
        f"--data.dir={path}",
        "--model.hidden",
        "8",
        "8",
        "--epochs=1",
    ]
    arguments += ["--batch_size=4", f"--workdir={tmp_path}/run"]
    assert run.main(["run", DIGITS, *arguments]) == 0
    (tmp_path / "run" / "summary.json").unlink()  # as if the run had been killed
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    npz(x_train=put(X, 7))(tmp_path)
    capsys.readouterr()
    assert run.main(["run", DIGITS, *arguments]) == 2
    assert "was started on other data (data.npz): use another workdir" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="holds other data than the run was trained on"):
        export.write(str(tmp_path / "run"), str(tmp_path / "out"), None)
    assert not (tmp_path / "out").exists()
    assert {
        file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()
    } == before
