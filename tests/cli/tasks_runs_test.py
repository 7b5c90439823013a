"""Regression and several labels from the command line: run, report, export, evaluate."""

import functools
import json

import numpy as np
import pytest
from command_line import DIGITS, exported, trained

from ist_jax import data
from ist_jax.cli.commands import evaluate, report, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.experiment import resolve
from ist_jax.data import DataError, Spec

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype(np.float32)
TARGETS = {
    "regression": 50 + 10 * np.tanh(X @ RNG.normal(size=(6, 2))),
    "multi_label": (X @ RNG.normal(size=(6, 8)) > 1.5).astype(int),
}
OPTIONS = ["--data.name=npz", "--batch_size=16", "--epochs=12", "--placement=vmapped"]
SMALL = ["--model.hidden", "16", "--num_subnets=2", "--time_syncs=False"]


def save(path, y):
    np.savez(path, x_train=X[:250], y_train=y[:250], x_test=X[250:], y_test=y[250:])
    return [*OPTIONS, f"--data.dir={path}"]


SELECTED = {"regression": ("mse", min), "multi_label": ("p@1", max)}


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    """task -> (workdir, summary) of a run, which is trained once."""
    folder = tmp_path_factory.mktemp("tasks")

    @functools.cache
    def train(task):
        arguments = save(folder / f"{task}.npz", TARGETS[task])
        return trained(folder / task, *arguments, *SMALL)

    return train


@pytest.mark.parametrize("task", SELECTED)
def test_the_best_evaluation_is_selected_and_reported(task, trained_on, tmp_path, capsys):
    (metric, best), (workdir, summary) = SELECTED[task], trained_on(task)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "validation" in row]
    chosen = best(evaluated, key=lambda row: row["validation"][metric])
    assert summary["selected"]["round"] == chosen["round"] and len(evaluated) > 2
    assert summary["selection"] == {"metric": metric, "best": best.__name__}
    assert summary["metrics"].keys() == chosen["test"].keys() == chosen["test_subnets"].keys()
    assert best(chosen["test"][metric], evaluated[0]["test"][metric]) == chosen["test"][metric]
    if task == "regression":
        assert 0.5 < chosen["test"]["r2"] <= 1 and chosen["test"]["mse"] < TARGETS[task].var()
    capsys.readouterr()
    assert report.main(["report", str(workdir), f"--out={tmp_path}/report"]) == 0
    value, is_share = chosen["test"][metric], summary["metrics"][metric]["unit"] == "share"
    table = capsys.readouterr().out
    assert f"| test {metric}, last {'(%) ' if is_share else ''}|" in table
    shown = f"{100 * value:.2f}" if is_share else f"{value:.4f}"
    assert table.splitlines()[2].split(" | ")[3] == shown


@pytest.mark.slow
@pytest.mark.parametrize("task", SELECTED)
def test_an_exported_model_has_the_metrics_of_its_run(task, trained_on, tmp_path, capsys):
    (workdir, summary), (metric, _) = trained_on(task), SELECTED[task]
    assert exported(workdir, tmp_path / "model") == 0
    capsys.readouterr()
    place = ["--name=npz", f"--dir={workdir.parent}/{task}.npz"]
    assert evaluate.main(["evaluate", f"--model={tmp_path}/model", *place]) == 0
    assert f"{metric} {summary['last']['test'][metric]:.4f}" in capsys.readouterr().out


def resolved(*arguments, spec=None):
    command = run.parse(["run", DIGITS, "--workdir=unused", *arguments])
    return resolve(command.config, spec=spec)


def test_a_task_that_does_not_fit_the_data_is_refused(tmp_path):
    arguments = save(tmp_path / "data.npz", TARGETS["regression"])
    with pytest.raises(DataError, match="several labels per example are a table .* of 0 and 1"):
        resolved(*arguments, "--data.task=multi_label")
    with pytest.raises(DataError, match="data.task='regression': data.name='digits_graph' is node"):
        data.load("digits_graph", task="regression")
    assert resolved("--data.task=regression").spec.task == "regression"  # digits as numbers
    with pytest.raises(ConfigError, match="label_loss='softmax' is for data with several labels"):
        resolved(*arguments, "--label_loss=softmax")


NUMBERS = Spec((6,), 2, 200, 0.0, 1.0, "regression")


def test_outputs_on_the_scale_of_targets_need_a_norm_or_a_factor():
    """The full model sums more units than a subnetwork: its predictions were 4 times as large."""
    for norm in ("none", "layer"):
        with pytest.raises(ConfigError, match="times as many units .* use model.norm=batch, or"):
            resolved(f"--model.norm={norm}", spec=NUMBERS)
        resolved(f"--model.norm={norm}", "--method=local_sgd", spec=NUMBERS)
    resolved("--model.norm=none", "--model.scaling=keep", spec=NUMBERS)
    model = resolved(spec=NUMBERS).decomposition.full.module
    assert model.affine_output and not resolved().decomposition.full.module.affine_output


def test_models_that_normalise_their_outputs_take_classes_only():
    images = NUMBERS._replace(example_shape=(8, 8, 1))
    vgg = ["--model.name=vgg", "--model.channels", "8", "0", "8", "--model.hidden", "8"]
    with pytest.raises(ConfigError, match="decomposition='channels' is for classification, and"):
        resolved(*vgg, spec=images)
