"""Inputs are normalised whole, per feature or not at all, also by exported models."""

import json

import numpy as np
import pytest
from command_line import DIGITS, exported, trained

from ist_jax import data
from ist_jax.cli.commands import evaluate, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.validation import validate
from ist_jax.data import DataError, Raw, Spec, make_dataset
from ist_jax.data.rows import RowStore, mean_and_std_per_feature
from ist_jax.data.splits import shared
from ist_jax.tasks import classification
from ist_jax.training import export

RNG = np.random.default_rng(0)
Y = np.arange(400) % 4
SCALE = np.array([1.0, 1e4, 1e-3, 1.0, 0.0])  # the last feature is always 7
X = RNG.normal(size=(400, 5)) * SCALE + np.array([0, 5, -1, Y.mean(), 7])
X[:, 2] += 3e-3 * Y  # what there is to learn


def made(standardise, x=X):
    raw = Raw(x[:300], Y[:300], x[300:], Y[300:])
    options = dict(source="here", validation_fraction=0.1, shards=shared)
    return make_dataset(raw, "x", standardise=standardise, **options)


def batch_of(data):
    task = classification(data.mean, data.std)
    return np.asarray(task.batch(data.train, np.arange(data.num_train), None)["x"])


def test_every_feature_has_its_own_mean_and_deviation():
    per_feature, whole, none = map(made, ("per_feature", "whole", "none"))
    stored = np.asarray(per_feature.train["x"], np.float64)
    np.testing.assert_allclose(per_feature.mean, stored.mean(axis=0), rtol=1e-9)
    deviation = np.where(SCALE > 0, stored.std(axis=0), 1)
    np.testing.assert_allclose(per_feature.std, deviation, rtol=1e-9)
    x = batch_of(per_feature)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=0), [1, 1, 1, 1, 0], atol=1e-3)
    assert (whole.mean, whole.std) == pytest.approx((stored.mean(), stored.std()), rel=1e-12)
    expected = (stored - whole.mean) / whole.std
    np.testing.assert_allclose(batch_of(whole), expected, rtol=1e-4, atol=1e-5)
    assert (none.mean, none.std) == (0, 1)
    np.testing.assert_array_equal(batch_of(none), none.train["x"])
    assert per_feature.fingerprint == whole.fingerprint == none.fingerprint, "of the same data"
    with pytest.raises(ValueError, match="standardise is one of whole, per_feature, none"):
        made("each")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_a_block_at_a_time_are_numpys(dtype, monkeypatch):
    monkeypatch.setattr("ist_jax.data.rows._LEAF", 64)
    x = RNG.integers(0, 9, (50, 3, 4)).astype(dtype)
    x[:, 1, 2] = 3
    expected = x.std(axis=0, dtype=np.float64)
    expected[1, 2] = 1
    for given in (x, RowStore(x, np.arange(50))):
        mean, std = mean_and_std_per_feature(given)
        np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(std, expected)


def test_a_spec_survives_its_record_with_one_number_or_one_for_every_entry():
    for mean, std in ((1.5, 2.0), (((1.0, 2.0), (3.0, 4.0)), ((1.0, 1.0), (2.0, 0.5)))):
        spec = Spec((2, 2), 3, 10, mean, std)
        again = Spec.from_json(json.loads(json.dumps(spec._asdict())))
        assert again == spec
        assert np.shape(again.reshaped((2, 2, 1)).mean) in ((), (2, 2, 1))
    fields = Spec((2, 2), 3, 10, 0.0, 1.0)._asdict()
    for wrong, says in (
        (dict(mean=[0.0, 0.0], std=[1.0, 1.0]), "have the shape .2, 2. of an input"),
        (dict(std=[[1.0, 1.0], [1.0, 1.0]]), "have the shape"),
        (dict(mean=[[0, 0], [0, 0]], std=[[1, 1], [1, 0]]), "std above 0"),
        (dict(mean="0"), "are numbers, or lists of them, not '0'"),
    ):
        with pytest.raises((ValueError, TypeError), match=says):
            Spec.from_json(fields | wrong)


def test_graphs_keep_their_features_as_they_are():
    with pytest.raises(DataError, match="'per_feature' is for independent examples"):
        data.load("digits_graph", standardise="per_feature")
    gcn = "--model.name=gcn --model.norm=layer --batch_size=0 --data.name=digits_graph"
    arguments = [DIGITS, "--workdir=unused", *gcn.split(), "--data.validation_fraction=0.1"]
    config = run.parse(["run", *arguments, "--data.standardise=none"]).config
    with pytest.raises(ConfigError, match="data.standardise='none' is for independent examples"):
        validate(config)


@pytest.mark.slow
def test_a_run_learns_from_a_small_feature_and_its_model_scores_elsewhere(tmp_path, capsys):
    """Also from images without an axis of channels, whose moments have another shape."""
    images = X[:, :4].reshape(400, 2, 2)
    for name, x in (("plain", images), ("channel", images[..., None])):
        parts = dict(x_train=x[:300], y_train=Y[:300], x_test=x[300:], y_test=Y[300:])
        np.savez(tmp_path / f"{name}.npz", **parts)
    place = ["--data.name=npz", f"--data.dir={tmp_path}/plain.npz", "--batch_size=16"]
    accuracy = {}
    for standardise in ("whole", "per_feature"):
        options = [*place, f"--data.standardise={standardise}", "--epochs=20"]
        workdir, summary = trained(tmp_path / standardise, *options)
        accuracy[standardise] = summary["last"]["test"]["accuracy"]
    assert accuracy["per_feature"] > accuracy["whole"] + 0.1
    spec = json.loads((workdir / "config.json").read_text())["environment"]["data"]["spec"]
    assert np.shape(spec["mean"]) == np.shape(spec["std"]) == (2, 2)
    assert exported(workdir, tmp_path / "model") == 0
    assert export.read(tmp_path / "model").about["data"]["spec"]["std"] == spec["std"]
    for name in ("plain", "channel"):
        capsys.readouterr()
        data_of = ["--name=npz", f"--dir={tmp_path}/{name}.npz"]
        assert evaluate.main(["evaluate", f"--model={tmp_path}/model", *data_of]) == 0
        assert f"test accuracy {accuracy['per_feature']:.4f}" in capsys.readouterr().out
