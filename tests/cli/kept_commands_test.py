"""The commands of kept tables can be parsed, and make the runs of their tables."""

import functools
import pathlib
import re
import shlex

import pytest

from ist_jax.cli.commands import sweep
from ist_jax.cli.records import record, results
from ist_jax.cli.validation import validate

ROOT = pathlib.Path(__file__).parent.parent.parent
TABLES = sorted((ROOT / "experiments").glob("*/results/*.jsonl"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").rglob("README.md"))]
# What a kept run does not say: where data are, and where workers train.
FREE = {"data.dir": "", "builders": "", "checkpoint_every": 0, "placement": "auto"}
SWEEP = re.compile(r"^    (ist-jax sweep (?:.*\\\n)*.*)$", re.MULTILINE)


def on_one_line(text):
    return " ".join(text.replace("\\\n", " ").split())


@functools.cache
def points(command):
    """(the words of a sweep's command line, the points of its grid)."""
    argv = shlex.split(command)[1:]
    flags, _ = sweep.configuration(argv)
    return argv, sweep.grid(flags.grid)


def configuration(argv, point):
    """The configuration of one run of a sweep, as a record keeps it."""
    return record.as_json(validate(sweep.configuration(argv, point)[1]))


@functools.cache
def configurations(command):
    """The configuration of every run of a sweep."""
    argv, grid = points(command)
    return [configuration(argv, point) for point in grid]


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_can_be_parsed(page, monkeypatch):
    """With the first and the last point of its grid."""
    monkeypatch.chdir(ROOT)
    for match in SWEEP.finditer(page.read_text()):
        argv, grid = points(on_one_line(match[1]))
        assert configuration(argv, grid[0]) and configuration(argv, grid[-1])


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_run_of_a_table_is_one_that_its_commands_make(table, monkeypatch):
    monkeypatch.chdir(ROOT)
    kept = results.read(table)
    made = [
        values | FREE
        for command in kept.command.splitlines()
        for values in configurations(on_one_line(command))
    ]
    for run in kept.runs:
        config = run.config | FREE
        assert any(all(config[name] == value for name, value in values.items()) for values in made)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_the_commands_of_a_table_are_on_its_page(table):
    pages = (table.parent.parent).rglob("README.md")
    text = on_one_line("".join(page.read_text() for page in pages))
    text += on_one_line((ROOT / "Makefile").read_text())  # make demo
    for command in results.read(table).command.splitlines():
        assert command.removeprefix("ist-jax ") in text


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_sweep_on_a_page_can_be_parsed(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for match in SWEEP.finditer(page.read_text()):
        assert configurations(on_one_line(match[1]))
