"""A run that goes on says what it starts from, and notes what is another than it was."""

import json

import pytest
from experiments_test import QUICK

from experiments import pages, record, run
from ist_jax.workdir import Workdir


@pytest.fixture
def finished(tmp_path):
    workdir = tmp_path / "runs" / "run"
    assert run.main(["run", *QUICK, f"--workdir={workdir}"]) == 0
    return workdir


def go_on(workdir):
    (workdir / "summary.json").unlink()
    assert run.main(["run", *QUICK, f"--workdir={workdir}"]) == 0


def test_a_run_that_died_before_it_had_a_lock_starts_afresh_and_says_so(finished, tmp_path, capsys):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_bytes((finished / "config.json").read_bytes())
    capsys.readouterr()
    assert run.main(["run", *QUICK, f"--workdir={begun}"]) == 0
    assert capsys.readouterr().err.count("no checkpoint of it was committed: starting afresh") == 1
    metrics = lambda folder: [json.loads(line)["test_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics(begun) == metrics(finished)


def test_going_on_with_another_revision_is_noted_once_and_kept_with_the_record(finished, tmp_path, capsys, monkeypatch):
    go_on(finished)
    noted = finished / record.CONTINUED
    assert not noted.exists(), "nothing was another"
    monkeypatch.setattr(record, "git_revision", lambda: "another")
    capsys.readouterr()
    for _ in range(2):
        go_on(finished)
    assert capsys.readouterr().err.count("goes on with another git_revision, noted in continued.jsonl") == 1
    monkeypatch.setattr(record, "git_revision", lambda: "a third")
    held = Workdir(finished, print)
    (finished / "summary.json").rename(finished / "before.json")
    assert run.main(["run", *QUICK, f"--workdir={finished}"]) == 1, "another run is writing here: it goes on with nothing"
    held.close()
    (finished / "before.json").rename(finished / "summary.json")
    last = json.loads((finished / "summary.json").read_text())["rounds"]
    assert [json.loads(line) for line in noted.read_text().splitlines()] == [
        {"round": last, "environment": {"git_revision": "another"}}
    ]
    pages.keep([finished.parent], tmp_path / "records")
    assert (tmp_path / "records" / "run" / record.CONTINUED).read_bytes() == noted.read_bytes()
