"""A config file that builds its own model, data, task or optimizer has every command."""

import json
import pathlib
import shutil
import sys

import pytest
from command_line import ROOT
from processes import ended
from recorded_tracker import library

from ist_jax.cli import builders
from ist_jax.cli.commands import evaluate, export, launch_local, memory, plan, report, run, sweep
from ist_jax.cli.config import Config, ConfigError, ConfigFile, replace
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.experiment import resolve
from ist_jax.cli.records import record
from ist_jax.cli.validation import validate
from ist_jax.models import MLP
from ist_jax.tasks import Selection
from ist_jax.training import export as exporting

WINE = ROOT / "experiments" / "own" / "wine.py"
QUICK = ("--model.hidden", "8", "8", "--num_subnets=2", "--epochs=2", "--eval_every=3")
QUICK += ("--time_syncs=False",)
TRACKED = []  # the runs of the tracker


def command(main, name, file, *arguments):
    return main([name, f"--config={file}", *QUICK, *arguments])


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """(a copy of the config file, the workdir of a finished run of it).

    Its rows went to trackio as well.
    """
    folder = tmp_path_factory.mktemp("wine")
    file = shutil.copy(WINE, folder / "wine.py")
    workdir = folder / "runs" / "run"
    tracked = ("--loggers=trackio", "--project=wines", f"--workdir={workdir}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trackio", library(TRACKED))
        assert command(run.main, "run", file, *tracked) == 0
    return pathlib.Path(file), workdir


def error_of(main, arguments, capsys):
    """The line that a command ends with, at status 2."""
    capsys.readouterr()
    assert main(["command", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_run_names_what_builds_it_and_is_reported(wine, capsys):
    file, workdir = wine
    content = json.loads((workdir / "config.json").read_text())
    config, environment = content["config"], content["environment"]
    assert config["builders"] == str(file) and config["model.hidden"] == [8, 8]
    for name in ("model.name", "decomposition", "data.name", "optimizer.name"):
        assert config[name] == "custom"
    assert list(environment["builders"]) == ["wine.py"]
    assert environment["data"]["name"] == "wine"
    assert report.main(["report", str(workdir.parent)]) == 0
    assert "| ist | 1 |" in capsys.readouterr().out


def test_a_tracker_that_the_command_line_names_gets_the_rows(wine):
    (tracked,) = TRACKED
    assert tracked.options["project"] == "wines" and tracked.is_finished
    assert tracked.options["config"]["model.name"] == "custom"
    rows = [json.loads(line) for line in (wine[1] / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in tracked.logged] == [row["round"] for row in rows] == [1, 2, 3]
    assert tracked.logged[-1][1]["test/accuracy"] == rows[-1]["test"]["accuracy"]


def test_a_model_of_its_own_is_exported_and_evaluated_with_its_file_alone(wine, tmp_path, capsys):
    file, workdir = wine
    summary = json.loads((workdir / "summary.json").read_text())
    assert export.main(["export", f"--workdir={workdir}", f"--out={tmp_path}/model"]) == 0
    says = "functions of wine.py build its model, task or data: give that file, --builders FILE"
    assert says in error_of(evaluate.main, [f"--model={tmp_path}/model"], capsys)
    scored = ["evaluate", f"--model={tmp_path}/model", f"--builders={file}"]
    assert evaluate.main(scored) == 0
    accuracy = f"test accuracy {summary['last']['test']['accuracy']:.4f}"
    assert accuracy in capsys.readouterr().out
    other = tmp_path / "wine.py"
    other.write_text(file.read_text() + "# another\n")
    assert evaluate.main([*scored[:2], f"--builders={other}"]) == 0
    assert "warning: " in capsys.readouterr().err, "the file has changed"


def test_python_reads_an_exported_model_of_its_own_class_with_the_model(wine, tmp_path):
    file, workdir = wine
    options = ["--subnet=1", f"--builders={file}"]
    assert export.main(["export", f"--workdir={workdir}", f"--out={tmp_path}/one", *options]) == 0
    with pytest.raises(exporting.ExportError, match="of class 'Net', .*: pass the model, read"):
        exporting.read(tmp_path / "one")
    config = validate(ConfigFile(str(file)).config())
    dataset = builders.load_dataset(config)
    small = replace(config, num_subnets=2, model={"hidden": (8, 8)})
    model = builders.make_decomposition(small, dataset.spec).subnet
    net, variables, about = exporting.read(tmp_path / "one", model.module)
    assert about["parameters"] == 4 * 13 + 4 + 4 * 4 + 4 + 4 * 3 + 3
    assert net.apply(variables, dataset.test["x"]).shape == (36, 3)


@pytest.mark.parametrize("alone", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_resumes_by_the_same_command_or_from_its_workdir_alone(alone, wine, tmp_path):
    file, workdir = wine
    copy = shutil.copytree(workdir, tmp_path / "copy")
    newest = max((copy / "checkpoints").glob("*.sha256"), key=lambda path: int(path.stem))
    newest.unlink()  # the run was killed before it was committed
    (copy / "summary.json").unlink()
    arguments = [f"--config={copy}/config.json"] if alone else [f"--config={file}", *QUICK]
    assert run.main(["run", *arguments, f"--workdir={copy}"]) == 0
    summaries = (json.loads((place / "summary.json").read_text()) for place in (copy, workdir))
    resumed, unbroken = summaries
    assert resumed["last"] == unbroken["last"] and resumed["rounds"] == unbroken["rounds"]


def test_a_changed_file_neither_resumes_nor_exports(wine, tmp_path, capsys):
    file, workdir = wine
    moved = tmp_path / "elsewhere" / "wine.py"
    moved.parent.mkdir()
    shutil.copy(file, moved)
    again = [f"--config={moved}", *QUICK, f"--workdir={workdir}"]
    assert run.main(["run", *again]) == 0, "the same content elsewhere is the same"
    moved.write_text(file.read_text().replace("nadam", "adam"))
    for main, arguments in (
        (run.main, again),
        (export.main, [f"--workdir={workdir}", f"--builders={moved}", f"--out={tmp_path}/out"]),
    ):
        error = error_of(main, arguments, capsys)
        assert "began with another wine.py" in error and "restore its content" in error
    gone = [f"--workdir={workdir}", f"--out={tmp_path}/out", f"--builders={tmp_path}/none.py"]
    assert "cannot be read (No such file" in error_of(export.main, gone, capsys)


@pytest.mark.slow
def test_a_plan_and_the_memory_of_a_model_of_its_own(wine, capsys):
    file, _ = wine
    small = ("--subnets", "2", "--repeats=1", "--steps", "10")
    assert command(plan.main, "plan", file, *small) == 0
    shown = capsys.readouterr()
    assert all(f"| {m} | 2 | 10 |" in shown.out for m in ("ist", "data_parallel", "local_sgd"))
    assert "left out" not in shown.err
    assert command(memory.main, "memory", file, "--subnets", "2") == 0
    assert "\n| 2 | 211 | 91 |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_compares_it_with_the_librarys(wine, tmp_path, capsys):
    file, _ = wine
    grid = ("--grid=model.name=custom,mlp", "--optimizer.name=sgd", f"--workdir={tmp_path}/sweep")
    assert command(sweep.main, "sweep", file, *grid) == 0
    shown = capsys.readouterr().out
    assert "| ist, decomposition=custom, model.name=custom |" in shown
    assert "| ist, decomposition=mlp, model.name=mlp |" in shown


@pytest.mark.slow
def test_two_processes_train_it(wine, tmp_path):
    file, workdir = wine
    flags = launch_local.LaunchFlags(
        processes=2,
        devices=1,
        arguments=(f"--config={file}", *QUICK, f"--workdir={tmp_path}/two"),
    )
    for output in ended(launch_local.start(flags)):
        assert output == (None, None)
    one, two = (json.loads((d / "summary.json").read_text()) for d in (workdir, tmp_path / "two"))
    assert two["last"]["test"]["loss"] == pytest.approx(one["last"]["test"]["loss"], rel=1e-4)
    assert two["bytes_per_device"] == one["bytes_per_device"]


HEAD = "from ist_jax.cli.config import *\nfrom ist_jax.cli.config import Config\n"
TAIL = "\ndef get_config():\n    return Config(**GIVEN)\n"
TASK = """
import jax.numpy as jnp
from ist_jax import tasks

def get_task(config, spec):
    base = tasks.classification(spec.mean, spec.std)
    metrics = lambda *given: {"error": (given[2].sum(), given[2].sum())}
    return base._replace(metrics=metrics, selects=tasks.Selection("error", "min"))
"""


def written(folder, body, given="{}", name="mine"):
    file = folder / f"{name}.py"
    file.write_text(f"{HEAD}GIVEN = {given}\n{body}{TAIL}")
    return file


def begun(file, workdir):
    """The experiment of a config file, and what the record of a run of it says when it begins."""
    experiment = resolve(validate(ConfigFile(str(file)).config()))
    record.start(workdir, experiment)
    return experiment, json.loads((workdir / "config.json").read_text())


def test_a_task_of_its_own_is_for_the_librarys_model(tmp_path):
    file = written(tmp_path, TASK)
    experiment, recorded = begun(file, tmp_path / "run")
    assert experiment.task.selects == Selection("error", "min")
    assert isinstance(experiment.decomposition.full.module, MLP)
    assert recorded["config"]["model.name"] == "mlp"
    assert recorded["config"]["builders"] == str(file)
    assert list(recorded["environment"]["builders"]) == ["mine.py"]


SPLIT = """
from ist_jax.decompositions import mlp
from ist_jax.models import MLP

def get_decomposition(config, spec, num_subnets):
    return mlp(MLP((8,), spec.num_classes), spec.example, num_subnets={count}, partition={name!r})
"""
WRONG = {
    "a misspelt function": (
        "def get_dateset(config):\n    pass",
        "get_dateset() is not a function of a config file: did you mean 'get_dataset'?",
    ),
    "another verb": (
        "def make_task(config, spec):\n    pass",
        "make_task() is not a function of a config file: did you mean 'get_task'?",
    ),
    "other parameters": (
        "def get_task(config):\n    pass",
        "get_task(config) is called with (config, spec): give it these parameters",
    ),
    "an error": (
        "def get_dataset(config):\n    return 1 / 0",
        "get_dataset(): ZeroDivisionError: division by zero (line 5)",
    ),
    "another result": (
        "def get_dataset(config):\n    return {}",
        "get_dataset() must return a ist_jax.data.base.Dataset, not dict",
    ),
    "no transform": (
        "def get_optimizer(config, total_steps):\n    return 0.1",
        "get_optimizer() must return a optax._src.base.GradientTransformation, not float",
    ),
    "another number of subnetworks": (
        SPLIT.format(count=2, name="balanced"),
        "called with num_subnets=4, but returned a decomposition of 2: pass num_subnets on",
    ),
    "another partition": (
        SPLIT.format(count="num_subnets", name="uniform"),
        "has partition='balanced', but get_decomposition() returned 'uniform': pass",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_function_is_one_line(case, tmp_path, capsys):
    body, says = WRONG[case]
    file = written(tmp_path, body)
    arguments = [f"--config={file}", f"--workdir={tmp_path}/run"]
    error = error_of(run.main, arguments, capsys)
    assert says in error and "mine.py" in error, error
    assert not (tmp_path / "run").exists()


def test_a_custom_part_needs_its_function(tmp_path, capsys):
    for config, says in (
        (replace(Config(), data={"name": "custom"}), "needs get_dataset(config) in a config file"),
        (replace(Config(), builders=str(written(tmp_path, ""))), "mine.py defines none of get_da"),
        (replace(Config(), builders="nowhere.py"), "builders=nowhere.py: this file builds parts"),
    ):
        with pytest.raises(ConfigError) as raised:
            validate(config)
        assert says in str(raised.value)
    assert exit_status(lambda: validate(config)) == 2


LATE = """from __future__ import annotations

import flax.linen as nn
from ist_jax import decompose
from ist_jax.cli.config import Config


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="output", use_bias=False)(
            nn.Dense(self.width, name="hidden", use_bias=False)(x)
        )


def get_decomposition(config, spec, num_subnets):
    rules = [("hidden/kernel", (None, "unit")), ("output/kernel", ("unit", None))]
    return decompose(
        rules,
        {"unit": 8},
        num_subnets=num_subnets,
        full=Net(8),
        subnet=Net(8 // num_subnets),
        example=spec.example,
    )


def get_config():
    return Config()
"""


def test_annotations_of_a_model_may_be_text(tmp_path):
    """Dataclasses, and so Linen modules, look them up in the module of the class."""
    (tmp_path / "late.py").write_text(LATE)
    experiment = resolve(validate(ConfigFile(str(tmp_path / "late.py")).config()))
    assert experiment.decomposition.full.module.width == 8


def test_a_changed_module_beside_the_file_is_noticed(tmp_path):
    (tmp_path / "rates.py").write_text("RATE = 0.1\n")
    body = "import optax\nimport rates\n\ndef get_optimizer(config, total_steps):\n"
    body += "    return optax.sgd(rates.RATE)\n"
    file = written(tmp_path, body)
    _, recorded = begun(file, tmp_path / "run")
    assert list(recorded["environment"]["builders"]) == ["mine.py", "rates.py"]
    begun(file, tmp_path / "run")
    (tmp_path / "rates.py").write_text("RATE = 0.2\n")
    with pytest.raises(ConfigError, match="began with another rates.py"):
        begun(file, tmp_path / "run")
