"""A run from Python leaves a record like that of a run from the command line."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from cases import BATCH, SGD, TASK, dataset, random_params, two_groups
from command_line import DIGITS
from custom_models import FEATURES, CustomModule, custom

from ist_jax import LoopConfig, Phase, export, ist, run
from ist_jax.cli.commands import evaluate, report
from ist_jax.cli.commands import export as exporting
from ist_jax.cli.commands import run as running
from ist_jax.cli.records import results
from ist_jax.models import as_model

OPTIONS = LoopConfig(seed=3, name="mine", settings={"learning_rate": 0.1})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the workdir of a run from Python, its results, its decomposition)."""
    workdir, split = tmp_path_factory.mktemp("python") / "run", two_groups(2)
    method = ist(split, TASK, SGD, batch_size=BATCH)
    return workdir, run([Phase(method, 96, 3)], TASK, dataset(), OPTIONS, workdir), split


def test_it_records_what_is_known_and_that_it_cannot_be_rebuilt(finished):
    content = json.loads((finished[0] / "config.json").read_text())
    config, environment = content["config"], content["environment"]
    assert config["method"] == "mine" and config["seed"] == 3 and config["learning_rate"] == 0.1
    assert (config["num_subnets"], config["local_steps"], config["batch_size"]) == (2, 3, BATCH)
    assert config["epochs"] == 0.96 and "model.name" not in config
    assert environment["data"]["fingerprint"] == dataset().fingerprint
    assert environment["phases"] == [
        {"method": "Ist", "num_workers": 2, "batch_size": BATCH, "samples": 96, "local_steps": 3}
    ]
    assert "from Python" in environment["cannot_be_rebuilt"] and environment["packages"]["jax"]


def test_it_is_reported_and_kept_with_labels_of_its_settings(finished, tmp_path, capsys):
    for rate in (0.1, 0.2):
        copy = shutil.copytree(finished[0], tmp_path / "runs" / str(rate))
        text = (copy / "config.json").read_text()
        (copy / "config.json").write_text(text.replace('_rate": 0.1', f'_rate": {rate}'))
    assert report.main(["report", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "| mine, learning_rate=0.1 | 1 |" in shown and "| mine, learning_rate=0.2 |" in shown
    results.keep([tmp_path / "runs"], tmp_path / "table.jsonl", "python train.py")
    kept = results.read(tmp_path / "table.jsonl").runs
    assert [one.config["learning_rate"] for one in kept] == [0.1, 0.2]
    assert all("model.name" not in one.config for one in kept), "no default that was not used"


def test_the_command_line_says_that_it_cannot_build_it_again(finished, tmp_path, capsys):
    workdir = finished[0]
    says = "trained by ist_jax.run from Python, and does not record how its model"
    for main, arguments in (
        (exporting.main, [f"--workdir={workdir}", f"--out={tmp_path}/model"]),
        (running.main, [f"--config={workdir}/config.json", f"--workdir={tmp_path}/again"]),
        (running.main, [DIGITS, f"--workdir={workdir}"]),
        (running.main, [DIGITS, f"--init_from={workdir}", f"--workdir={tmp_path}/next"]),
    ):
        assert main(["command", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error


def test_its_model_is_exported_from_python(finished, tmp_path, capsys):
    _, trained, split = finished
    export.write(tmp_path / "model", split.full, trained.params)
    exported = export.read(tmp_path / "model")
    assert exported.model == split.full.module and exported.stats is None
    jax.tree.map(np.testing.assert_array_equal, exported.params, trained.params)
    assert evaluate.main(["evaluate", f"--model={tmp_path}/model"]) == 2
    assert "was exported from Python, without a record of its data" in capsys.readouterr().err


def test_factors_on_sums_are_exported_with_the_parameters(tmp_path):
    full = custom(2, scale="keep").full
    params = random_params(custom(2))
    export.write(tmp_path / "model", full, params)
    x = np.ones((3, FEATURES), np.float32)
    for model in (CustomModule(16, 8), full):
        exported = export.read(tmp_path / "model", model)
        applied = as_model(exported.model).apply(exported.params, x)
        np.testing.assert_array_equal(applied, full.apply(params, x))


def test_data_of_other_names_are_recorded():
    data = dataset()
    renamed = {
        part: {"table": split["x"], "y": split["y"]}
        for part, split in (("train", data.train), ("test", data.test))
    }
    assert dataclasses.replace(data, **renamed).spec == data.spec


def test_parameters_that_are_no_nested_dicts_are_not_exported(tmp_path):
    with pytest.raises(export.ExportError, match="nested dicts with names as keys, but one is at"):
        export.write(tmp_path / "model", object(), {"layers": [np.zeros(3)]})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [SGD, float("nan"), {1, 2}])
def test_a_setting_that_json_does_not_have_is_refused(value):
    with pytest.raises(
        ValueError, match="LoopConfig.settings may hold only JSON values .* as text"
    ):
        LoopConfig(settings={"optimizer": value})
