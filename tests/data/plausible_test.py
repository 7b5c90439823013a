"""Data that cannot be right are refused, and odd data are said: in Python, by a run, in records."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, TASK, dataset, graph_dataset, raw_graph
from command_line import DIGITS, exported, trained

from ist_jax import LoopConfig, data
from ist_jax import run as train
from ist_jax.cli import builders
from ist_jax.cli.commands import evaluate, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.validation import validate
from ist_jax.data import DataError, Raw, RawStream, make_dataset, make_streamed
from ist_jax.data.splits import shared
from ist_jax.data.streamed import Columns
from ist_jax.tasks.augment import augment_images, has_channels_first

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 6, 6), dtype=np.uint8)
NORMAL = np.random.default_rng(1).normal(size=(300, 6, 6))
Y = np.arange(300) % 4


def made(x_train=IMAGES[:200], x_test=IMAGES[200:], y_train=Y[:200], y_test=Y[200:], **options):
    raw = Raw(x_train, y_train, x_test, y_test)
    options = dict(source="here", validation_fraction=0.1, shards=shared) | options
    return make_dataset(raw, "x", **options)


REFUSED = {
    "bytes and [0, 1]": (IMAGES[:200], IMAGES[200:] / 255),
    "[0, 1] and bytes": (IMAGES[:200] / 255, IMAGES[200:]),
    "bytes and [-1, 1]": (IMAGES[:200], IMAGES[200:] / 127.5 - 1),
    "bytes as floats and [0, 1]": (IMAGES[:200].astype(np.float32), IMAGES[200:] / 255),
    "standardised and bytes": ((IMAGES[:200] - 127.5) / 74, IMAGES[200:]),
    "counts and shares": (IMAGES[:200] % 4, IMAGES[200:] % 4 / 3),
}


@pytest.mark.parametrize("case", REFUSED)
def test_train_and_test_inputs_on_different_scales_are_refused(case):
    """uint8 0..255 to train on and floats 0..1 to test on gave an accuracy of 0.100, unsaid."""
    says = "^here: train inputs are .* and test inputs .*: they are on different scales: prepare"
    with pytest.raises(DataError, match=says):
        made(*REFUSED[case])


def with_outlier(x):
    changed = x.copy()
    changed[0, 0, 0] = 1e6
    return changed


ODD = {
    "[0, 1] and [-1, 1]": (IMAGES[:200] / 255, IMAGES[200:] / 127.5 - 1),
    "another mean": (NORMAL[:200], NORMAL[200:] + 2),
    "a large entry": (with_outlier(NORMAL[:200]), NORMAL[200:]),
    "test inputs that are all equal": (NORMAL[:200], np.zeros_like(NORMAL[200:])),
}


@pytest.mark.parametrize("case", ODD)
def test_train_and_test_inputs_that_differ_oddly_are_said(case):
    (warning,) = made(*ODD[case]).warnings
    assert warning.startswith("x: train inputs are ") and "results on them say" in warning


ALIKE = {
    "bytes": (IMAGES[:200], IMAGES[200:]),
    "bytes, as floats in one": (IMAGES[:200], IMAGES[200:].astype(np.float64)),
    "zeros and ones": (IMAGES[:200] % 2, (IMAGES[200:] % 2).astype(float)),
    "normal": (NORMAL[:200], NORMAL[200:]),
    "a few": (NORMAL[:200], NORMAL[200:208]),
    "one value": (np.full((200, 3, 3), 0.1), np.full((100, 3, 3), 0.1)),
}


@pytest.mark.parametrize("case", ALIKE)
def test_train_and_test_inputs_that_belong_together_are_not_remarked_on(case):
    x_train, x_test = ALIKE[case]
    assert not made(x_train, x_test, y_test=Y[: len(x_test)]).warnings


def test_streamed_inputs_are_compared():
    def columns(x):
        return Columns(len(x), lambda rows: {"x": x[rows], "y": Y[rows]})

    def streamed(x_test, **options):
        raw = RawStream(columns(IMAGES[:200]), columns(x_test), 4, (6, 6), "0")
        options = dict(source="here", validation_fraction=0.1, shards=shared) | options
        return make_streamed(raw, "x", **options)

    assert not streamed(IMAGES[200:]).warnings
    assert "results on them say" in streamed(IMAGES[200:] // 3).warnings[0]
    with pytest.raises(DataError, match="they are on different scales"):
        streamed(IMAGES[200:] // 100)
    plain = streamed(IMAGES[200:], standardise="none")
    assert (plain.mean, plain.std) == (0, 1)
    with pytest.raises(DataError, match="'per_feature' needs all inputs in memory"):
        streamed(IMAGES[200:], standardise="per_feature")


def test_classes_that_training_lacks_are_said():
    """Digits without any 3 in training: 0.869, and no word."""
    (warning,) = made(y_train=np.where(Y[:200] == 2, 0, Y[:200])).warnings
    assert "no training example is of class 2, and 25 of 100 test examples are" in warning
    (warning,) = made(y_train=Y[:200] + 3, y_test=Y[200:] + 3).warnings
    assert "no example has labels 0, 1, 2, and the model has an output for each of 7" in warning
    raw = raw_graph()
    lost = raw.train_N & (raw.labels_N == 1)
    warnings = graph_dataset(raw._replace(labels_N=np.where(lost, 0, raw.labels_N))).warnings
    assert warnings and not graph_dataset().warnings
    assert all("no training example is of class 1" in warning for warning in warnings)


def test_features_of_unlike_scales_are_said_and_standardised_on_request():
    """Digits beside a column of identifiers: 0.097."""
    digits = data.load("digits")
    x, y = digits.train["x"], digits.train["y"]
    with_ids = np.column_stack([x, np.arange(len(x))])
    raw = (with_ids, with_ids[::4], y, y[::4])
    (warning,) = made(*raw).warnings
    assert "features are on unlike scales: feature 64 deviates by 373" in warning
    assert warning.endswith("use data.standardise=per_feature")
    assert not made(x, x[::4], y, y[::4]).warnings, "pixels at the border are not remarked on"
    assert not made(*raw, standardise="per_feature").warnings
    assert not made(*raw, standardise="none").warnings
    assert not made(np.zeros((200, 3)), np.zeros((100, 3))).warnings
    graph = raw_graph()
    scaled = graph.features_NxD * np.where(np.arange(graph.features_NxD.shape[1]) == 2, 1e4, 1)
    (warning,) = graph_dataset(graph._replace(features_NxD=scaled)).warnings
    assert "feature 2 deviates by" in warning and "before you save the graph" in warning


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 50, 40), (4, 8, 9), (1, 5, 5)])
def test_channels_that_come_first_are_recognised(shape):
    assert has_channels_first(shape) and not has_channels_first((*shape[1:], shape[0]))


@pytest.mark.parametrize("shape", [(28, 28), (64,), (4, 4, 2), (3, 3, 3), (2, 9, 9), (3, 5, 7)])
def test_other_shapes_are_not_taken_for_channels_first(shape):
    assert not has_channels_first(shape)


def test_images_with_channels_first_are_said_and_refused_where_their_order_matters():
    """(N, C, H, W) trained as if C were height: 0.775 against 0.964."""
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8), dtype=np.uint8)
    loaded = made(images[:200], images[200:])
    (warning,) = loaded.warnings
    assert "shape (3, 8, 8) look like images with their channels first" in warning
    assert "x.transpose(0, 2, 3, 1)" in warning
    for options in ("--model.name=resnet", "--model.name=vgg --model.channels 8 0 8"):
        config = config_of(*options.split())
        with pytest.raises(ConfigError, match="channels first, .* x.transpose.0, 2, 3, 1."):
            builders.make_decomposition(config, loaded.spec)
    builders.make_decomposition(config_of("--model.hidden", "8", "8"), loaded.spec)  # order is free
    with pytest.raises(ConfigError, match="data.augment='crop': .* channels first"):
        builders.make_task(config_of("--data.augment=crop"), loaded.spec)
    with pytest.raises(ValueError, match="augment='crop': .* channels first"):
        augment_images("crop", jnp.zeros((2, 3, 8, 8)), jax.random.key(0), 1)


def config_of(*arguments):
    return validate(run.parse(["run", DIGITS, "--workdir=unused", *arguments]).config)


def save(path, x_train, x_test, y_train=Y[:200], y_test=Y[200:]):
    np.savez(path, x_train=x_train, x_test=x_test, y_train=y_train, y_test=y_test)
    return ["--data.name=npz", f"--data.dir={path}", "--batch_size=16"]


def test_a_run_refuses_test_inputs_on_another_scale(tmp_path, capsys):
    arguments = save(tmp_path / "data.npz", *REFUSED["bytes and [0, 1]"])
    assert run.main(["run", DIGITS, *arguments, f"--workdir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "on different scales" in error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_run_says_and_records_what_is_odd_also_when_it_resumes(tmp_path, capsys):
    known = np.where(Y[:200] == 2, 0, Y[:200])
    arguments = save(tmp_path / "data.npz", IMAGES[:200], IMAGES[200:], y_train=known)
    says = "ist: warning: data.npz: no training example is of class 2"
    workdir, _ = trained(tmp_path / "run", *arguments)
    assert capsys.readouterr().err.count(says) == 1
    environment = json.loads((workdir / "config.json").read_text())["environment"]
    (kept,) = environment["data"]["warnings"]
    assert says == f"ist: warning: {kept.split(', and')[0]}"
    (workdir / "summary.json").unlink()  # as if it had been killed
    trained(workdir, *arguments)
    assert capsys.readouterr().err.count(says) == 1


def test_training_from_python_says_it_too(capsys):
    odd = dataclasses.replace(dataset(), warnings=("here: odd", "here: odder"))
    method = METHODS["ist"](2)
    train([(method, 4 * method.batch_size, 2)], TASK, odd, LoopConfig(eval_batch_size=20))
    said = capsys.readouterr().err
    assert said.count("warning: here: odd\n") == 1 == said.count("warning: here: odder\n")


def test_an_exported_model_refuses_data_on_another_scale(tmp_path, capsys):
    workdir, _ = trained(tmp_path / "run")
    assert exported(workdir, tmp_path / "model") == 0
    digits = data.load("digits")
    x, y = digits.train["x"], digits.train["y"]

    def status_of(factor, shift=0.0):
        inputs = factor * x + shift
        save(tmp_path / "data.npz", inputs[:900], inputs[900:], y[:900], y[900:])
        capsys.readouterr()
        place = ["--name=npz", f"--dir={tmp_path}/data.npz"]
        return evaluate.main(["evaluate", f"--model={tmp_path}/model", *place])

    assert status_of(1) == 0 and "warning: " not in capsys.readouterr().err
    for factor in (1 / 16, 16):
        assert status_of(factor) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: data.npz, test: train inputs are ") and "scale" in error
        assert error.count("\n") == 1
    assert status_of(1, shift=10) == 0
    assert "warning: data.npz, test: train inputs are " in capsys.readouterr().err
    assert evaluate.main(["evaluate", f"--model={tmp_path}/model"]) == 0
    assert "warning: " not in capsys.readouterr().err, "the data that it was trained on"
