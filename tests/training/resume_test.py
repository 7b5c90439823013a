"""A run that resumes says what it starts from, and notes what has changed."""

import errno
import json
import os

import numpy as np
import pytest
from command_line import QUICK

from ist_jax.cli.commands import run
from ist_jax.cli.records import record, results
from ist_jax.training import environment
from ist_jax.training.workdir import Workdir


@pytest.fixture
def finished(tmp_path):
    workdir = tmp_path / "runs" / "run"
    assert run.main(["run", *QUICK, f"--workdir={workdir}"]) == 0
    return workdir


def resume(workdir, *arguments):
    (workdir / "summary.json").unlink()
    assert run.main(["run", *QUICK, *arguments, f"--workdir={workdir}"]) == 0


@pytest.mark.slow
def test_a_run_that_died_before_it_had_a_lock_starts_again_and_says_so(finished, tmp_path, capsys):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_bytes((finished / "config.json").read_bytes())
    capsys.readouterr()
    assert run.main(["run", *QUICK, f"--workdir={begun}"]) == 0
    assert (
        capsys.readouterr().err.count(
            "a run began here and committed no checkpoint: starting again"
        )
        == 1
    )

    def metrics(folder):
        return [
            {name: value for name, value in json.loads(line).items() if isinstance(value, dict)}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]

    assert metrics(begun) == metrics(finished)


@pytest.mark.slow
def test_resuming_with_another_revision_is_noted_once_and_kept_with_the_record(
    finished, tmp_path, capsys, monkeypatch
):
    resume(finished)
    noted = finished / record.RESUMES
    assert not noted.exists(), "nothing was another"
    monkeypatch.setattr(environment, "git_revision", lambda: "another")
    capsys.readouterr()
    for _ in range(2):
        resume(finished)
    assert (
        capsys.readouterr().err.count("resumes with another git_revision, noted in resumes.jsonl")
        == 1
    )
    monkeypatch.setattr(environment, "git_revision", lambda: "a third")
    held = Workdir(finished, print)
    (finished / "summary.json").rename(finished / "before.json")
    assert run.main(["run", *QUICK, f"--workdir={finished}"]) == 1, (
        "another run is writing here: nothing is resumed"
    )
    held.close()
    (finished / "before.json").rename(finished / "summary.json")
    last = json.loads((finished / "summary.json").read_text())["rounds"]
    assert [json.loads(line) for line in noted.read_text().splitlines()] == [
        {"round": last, "environment": {"git_revision": "another"}}
    ]
    results.keep([finished.parent], tmp_path / "table.jsonl", "ist-jax run")
    (kept,) = results.read(tmp_path / "table.jsonl").runs
    assert list(kept.resumes) == [json.loads(line) for line in noted.read_text().splitlines()]


def test_resuming_with_another_placement_is_noted(finished, capsys):
    resume(finished, "--placement=vmapped")
    assert "resumes with another placement" in capsys.readouterr().err
    (noted,) = map(json.loads, (finished / record.RESUMES).read_text().splitlines())
    assert noted["environment"] == {"placement": "vmapped"}


@pytest.mark.slow
def test_a_record_runs_again_from_another_folder(tmp_path, monkeypatch):
    """It keeps the whole paths of what it was given relative ones of."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    small = ["--data.name=npz", "--batch_size=8"]
    monkeypatch.chdir(tmp_path)
    assert run.main(["run", *QUICK, *small, "--data.dir=data.npz", "--workdir=first"]) == 0
    assert (
        run.main(
            [
                "run",
                *QUICK,
                *small,
                "--data.dir=data.npz",
                "--init_from=first",
                "--workdir=second",
            ]
        )
        == 0
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.main(["run", "--config=../second/config.json", "--workdir=third"]) == 0
    assert run.main(["run", "--config=../second/config.json", "--workdir=../second"]) == 0, (
        "finished already"
    )


def test_a_finished_workdir_for_reading_only_is_finished(finished, capsys, monkeypatch):
    (finished / "curves.png").unlink()

    def read_only(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(run.curves, "draw", read_only)
    assert run.main(["run", *QUICK, f"--workdir={finished}"]) == 0
    assert "finished already" in capsys.readouterr().err
