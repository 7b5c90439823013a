"""Undamaged files with impossible content raise an error of one line, without a traceback."""

import json
import re
import shutil

import numpy as np
import pytest
from command_line import QUICK, exported, trained

from ist_jax.cli.commands import evaluate, export, report, run
from ist_jax.training import checkpoint

GONE = object()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(workdir of a run, the model that was exported from it)."""
    workdir, _ = trained(tmp_path_factory.mktemp("untrusted") / "run")
    assert exported(workdir, workdir.with_name("model")) == 0
    return workdir, workdir.with_name("model")


def edit(file, path, value):
    """Sets, or removes, one value of a JSON file."""
    content = place = json.loads(file.read_text())
    for name in path[:-1]:
        place = place[name]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    file.write_text(json.dumps(content))


def edited(folder, file, path, value, into):
    """A copy of `folder`, with one value of its JSON file `file` set or removed."""
    copy = shutil.copytree(folder, into)
    edit(copy / file, path, value)
    return copy


def assert_refused(status, main, arguments, says, capsys):
    """The command ends with that status, and says that in one line."""
    capsys.readouterr()
    assert main(["command", *arguments]) == status
    error = capsys.readouterr().err.splitlines()
    assert (
        error and error[-1].startswith("error: ") and not any("Traceback" in line for line in error)
    ), error
    assert re.search(says, error[-1]), error[-1]


DATA = ("environment", "data")
CONFIGS = {
    "a negative shape": ((*DATA, "spec", "example_shape"), [-3], "integers above 0, not .-3, 10"),
    "a shape that is none": ((*DATA, "spec", "example_shape"), 64, "does not describe the data"),
    "classes in words": ((*DATA, "spec", "num_classes"), "ten", "integers above 0"),
    "no mean": ((*DATA, "spec", "mean"), None, "does not describe the data"),
    "builders in a list": (
        ("environment", "builders"),
        ["wine.py"],
        "not the config.json of a run",
    ),
    "no deviation": ((*DATA, "spec", "std"), 0.0, "std above 0, not"),
    "a field too many": ((*DATA, "spec", "more"), 1, "does not describe the data"),
    "no data": (DATA, GONE, "does not describe the data"),
    "a width in words": (("config", "model.hidden"), ["wide"], "integers such as"),
    "a batch of nothing": (("config", "batch_size"), -1, "batch_size is from 0"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_values_in_a_runs_config_json(case, model, tmp_path, capsys):
    path, value, says = CONFIGS[case]
    copy = edited(model[0], "config.json", path, value, tmp_path / "run")
    assert_refused(2, export.main, [f"--workdir={copy}", f"--out={tmp_path}/out"], says, capsys)


RUN_STATE = ("custom_metadata", "run_state")
CHECKPOINTS = {
    "no run state": (RUN_STATE, GONE, "is no checkpoint of this software"),
    "a run state that is a number": (RUN_STATE, 3, "is no checkpoint of this software"),
    "no metadata": (("custom_metadata",), None, "is no checkpoint of this software"),
    "no round": (
        (*RUN_STATE, "round"),
        GONE,
        "does not say its round|another version of this software",
    ),
    "a round in words": (
        (*RUN_STATE, "round"),
        "six",
        "does not say its round|another version of this software",
    ),
    "metrics that are a list": (
        (*RUN_STATE, "selected"),
        [],
        "does not say its round|another version of this software",
    ),
    "a phase that the run has not": ((*RUN_STATE, "phase"), 9, "with other phases"),
    "a phase before the first": ((*RUN_STATE, "phase"), -1, "with other phases"),
    "steps in words": ((*RUN_STATE, "steps"), "x", "another version of this software"),
    "time that is not finite": (
        (*RUN_STATE, "seconds"),
        float("nan"),
        "another version of this software",
    ),
    "costs that are a number": ((*RUN_STATE, "measured"), 3, "another version of this software"),
    "a field too many": ((*RUN_STATE, "more"), 1, "another version of this software"),
    "shapes that are none": (("custom_metadata", "shapes"), 1, "is no checkpoint of this software"),
    "shapes of another model": (
        ("custom_metadata", "model", "output/kernel"),
        [1, 1],
        "of another model",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_wrong_values_in_a_checkpoint_whose_digest_is_right(case, model, tmp_path, capsys):
    path, value, says = CHECKPOINTS[case]
    newest = f"checkpoints/{checkpoint.committed_rounds(model[0] / 'checkpoints')[-1]}"
    copy = edited(model[0], f"{newest}/_CHECKPOINT_METADATA", path, value, tmp_path / "run")
    (copy / f"{newest}.sha256").write_text(checkpoint._digest(copy / newest))
    (copy / "summary.json").unlink()
    assert_refused(2, export.main, [f"--workdir={copy}", f"--out={tmp_path}/out"], says, capsys)
    assert_refused(1, run.main, [*QUICK, "--eval_subnets=True", f"--workdir={copy}"], says, capsys)


def arrays_changed(folder, into, change):
    """A copy of an exported model with other arrays."""
    copy = shutil.copytree(folder, into)
    with np.load(folder / "variables.npz") as arrays:
        np.savez(copy / "variables.npz", **change(dict(arrays)))
    return copy


KERNEL, MEAN = "params/hidden_0/kernel", "norm_stats/norm_0/mean"
VARIABLES = {
    "words": (
        lambda a: a | {KERNEL: np.full(a[KERNEL].shape, "x")},
        "its arrays are not those of its model",
    ),
    "complex numbers": (
        lambda a: a | {KERNEL: a[KERNEL].astype(complex)},
        "its arrays are not those of its model",
    ),
    "statistics of another shape": (
        lambda a: a | {MEAN: np.zeros((1, 3))},
        "its arrays are not those of its model",
    ),
    "no statistics": (
        lambda a: {n: x for n, x in a.items() if "norm_stats" not in n},
        "its arrays are not those of its model",
    ),
    "nan": (
        lambda a: a | {KERNEL: np.full_like(a[KERNEL], np.nan)},
        "its arrays hold nan or infinity",
    ),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_wrong_arrays_of_an_exported_model(case, model, tmp_path, capsys):
    change, says = VARIABLES[case]
    copy = arrays_changed(model[1], tmp_path / "model", change)
    assert_refused(2, evaluate.main, [f"--model={copy}"], says, capsys)


RECORDS = {
    "an accuracy in words": (
        "summary.json",
        ("last", "test", "accuracy"),
        "0.5",
        "'0.5' is not a finite number",
    ),
    "endless seconds": ("summary.json", ("seconds",), float("inf"), "numbers only, not Infinity"),
    "a method that is an object": ("config.json", ("config", "method"), {}, "method is a name"),
    "simulated seconds in words": (
        "summary.json",
        ("simulated_seconds",),
        "1",
        "'1' is not a finite number",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_wrong_values_in_a_record_that_is_reported(case, model, tmp_path, capsys):
    file, path, value, says = RECORDS[case]
    copy = edited(model[0], file, path, value, tmp_path / "run")
    assert_refused(2, report.main, [str(copy)], says, capsys)


MODELS = {
    "batches of nothing": (("about", "config", "eval_batch_size"), 0, "eval_batch_size is from 1"),
    "a negative shape": (("about", "data", "spec", "example_shape"), [-3], "integers above 0"),
    "no data": (("about", "data"), GONE, "data"),
    "a config that is a list": (("about", "config"), [1], "--model "),
    "an unknown model": (("model", "name"), "Transformer", "holds no exported model"),
    "a width of nothing": (("model", "fields", "hidden"), [0], "--model "),
    "a task that is none": (("about", "data", "spec", "task"), "alchemy", "alchemy"),
}


@pytest.mark.parametrize("case", MODELS)
def test_wrong_values_in_an_exported_models_json(case, model, tmp_path, capsys):
    path, value, says = MODELS[case]
    copy = edited(model[1], "model.json", path, value, tmp_path / "model")
    assert_refused(2, evaluate.main, [f"--model={copy}"], says, capsys)
