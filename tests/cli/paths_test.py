"""Paths of the command line: "~" is the home folder, and a URL is no path."""

import importlib
import pathlib
import pkgutil

import pytest
from command_line import QUICK

import ist_jax.cli
from ist_jax.cli.commands import run, sweep
from ist_jax.cli.commands.report import ReportFlags
from ist_jax.cli.config import ConfigError, from_values, replace
from ist_jax.cli.config.fields import FIELDS, fields
from ist_jax.cli.config.parsing import parse
from ist_jax.training.workdir import Workdir

# names that are paths of this machine wherever they are flags; those of data are `data.load`'s
PATHS = {"workdir", "config", "out", "model", "keep", "page", "folders"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_workdir_in_the_home_folder_makes_no_folder_of_that_sign(home):
    command = run.parse(["run", *QUICK, "--workdir=~/runs/a", "--init_from=~/runs/b"])
    assert command.workdir == home / "runs" / "a"
    assert command.config.init_from == f"{home}/runs/b"
    assert run.parse(["run", *QUICK, "--workdir", "~"]).workdir == home


def test_a_grid_of_workdirs_is_in_the_home_folder(home):
    planned = sweep._planned(["sweep", *QUICK, "--workdir=~/runs", "--grid=seed=0,1"])
    assert [workdir for _, workdir in planned] == [home / "runs" / f"seed={i}" for i in (0, 1)]
    _, config = sweep.configuration(["sweep", *QUICK], {"init_from": "~/b"})
    assert config.init_from == f"{home}/b"


def test_paths_of_other_commands_and_of_configurations_are_expanded(home):
    flags = parse(ReportFlags, ["report", "~/a", "b", "--out=~/c", "--keep", "~/t.jsonl"], None)
    assert flags.folders == (home / "a", pathlib.Path("b"))
    assert (flags.out, flags.keep, flags.page) == (home / "c", home / "t.jsonl", None)
    assert from_values({"init_from": "~/b"}).init_from == f"{home}/b"
    assert replace(from_values({}), init_from="").init_from == ""


def test_a_workdir_of_a_program_is_in_the_home_folder(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Workdir("~/run", print).close()
    assert (home / "run" / "lock").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "path, says",
    [
        ("~no_such_user/runs", "names no user of this machine: write the whole path"),
        ("gs://bucket/runs", "--workdir is a path of this machine, not 'gs://bucket/runs': mount"),
    ],
)
def test_a_path_of_no_user_and_a_url_are_one_line(path, says, tmp_path, capsys, monkeypatch):
    config = str(pathlib.Path(QUICK[0].split("=", 1)[1]).absolute())
    monkeypatch.chdir(tmp_path)
    assert run.main(["run", f"--config={config}", *QUICK[1:], f"--workdir={path}"]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="init_from"):
        from_values({"init_from": path})


def test_every_path_of_the_command_line_is_known_as_one():
    """A flag or field that is a path has the type `PathText` or pathlib.Path."""
    assert {name for name, field in FIELDS.items() if field.is_path} >= {"init_from"}
    kinds = {}
    for module in pkgutil.walk_packages(ist_jax.cli.__path__, "ist_jax.cli."):
        if module.name.startswith(("ist_jax.cli.commands.", "ist_jax.cli.benchmarks.")):
            named = vars(importlib.import_module(module.name)).items()
            kinds |= {name: kind for name, kind in named if name.endswith("Flags")}
    assert {"RunFlags", "ExportFlags", "PlanFlags", "RoundsFlags", "ReportFlags"} <= kinds.keys()
    for name, kind in kinds.items():
        for flag, field in fields(kind).items():
            assert field.is_path or flag not in PATHS, f"{name}.{flag}"
