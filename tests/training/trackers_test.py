"""Rows arrive at experiment trackers once, under one run, also if the run resumes."""

import json
import sys
import types

import pytest
from recorded_tracker import library

from ist_jax.cli.exit_status import exit_status
from ist_jax.training import trackers
from ist_jax.training.loggers import JsonLines
from ist_jax.training.trackers import TRACKERS, TrackerError, Trackio, WandB, check_trackers

NAMES = sorted(TRACKERS)


@pytest.fixture
def runs(monkeypatch):
    """The runs that were started with either library."""
    started = []
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, library(started))
    return started


def row(round, **more):
    return {"round": round, "samples_seen": 100 * round, "train": {"loss": 1 / round}} | more


EVALUATED = row(2, test={"accuracy": 0.5}, test_subnets={"accuracy": [0.4, 0.6]}, note="text")


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_sent_by_flat_names_with_the_round_as_step(name, runs, tmp_path):
    logger = TRACKERS[name]("project", tmp_path / "a run", {"seed": 3})
    logger.log(row(1))
    logger.log({"round": 1}, "a message")
    logger.log(EVALUATED)
    logger.close()
    (run,) = runs
    assert run.options["project"] == "project" and run.options["config"] == {"seed": 3}
    assert run.options["name"].startswith("a run") and run.is_finished
    assert run.logged == [
        (1, {"round": 1, "samples_seen": 100, "train/loss": 1.0}),
        (2, {"round": 2, "samples_seen": 200, "train/loss": 0.5, "test/accuracy": 0.5}),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_resumes_continues_the_trackers_run_and_sends_no_row_twice(name, runs, tmp_path):
    logger, kept = TRACKERS[name]("project", tmp_path), JsonLines(tmp_path / "metrics.jsonl")
    for taker in (kept, logger):
        taker.log(row(1))
        taker.log(EVALUATED)
    kept.close()
    again = TRACKERS[name]("project", tmp_path)  # from the checkpoint of round 1
    again.log(EVALUATED)
    again.log(row(3))
    first, second = runs
    same = "id" if name == "wandb" else "name"
    assert first.options[same] == second.options[same]
    assert second.options["resume"] == "allow"
    assert [step for step, _ in first.logged] == [1, 2]
    assert [step for step, _ in second.logged] == [3]


def test_a_tracker_that_comes_later_gets_the_rows_so_far(runs, tmp_path):
    kept = JsonLines(tmp_path / "metrics.jsonl", [row(1), EVALUATED])
    kept.close()
    logger = WandB("project", tmp_path)
    logger.log(EVALUATED)
    logger.log(row(3))
    assert [step for step, _ in runs[0].logged] == [1, 2, 3]
    assert runs[0].axis == ("*", "samples_seen")


def test_runs_without_a_workdir_or_in_two_of_them_are_different_ones(runs, tmp_path):
    for folder in (None, None, tmp_path / "a" / "run", tmp_path / "b" / "run"):
        Trackio("project", folder)
    assert len({run.options["name"] for run in runs}) == 4


def test_only_the_first_process_starts_a_run(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "is_first", lambda: False)
    Trackio("project", tmp_path / "run").close()
    assert not runs and not (tmp_path / "run").exists()


def test_a_logger_that_cannot_be_used_is_one_line(monkeypatch, tmp_path, capsys):
    with pytest.raises(TrackerError, match="a logger is one of trackio, wandb, not 'tensorboard'"):
        check_trackers(["tensorboard"])
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    assert exit_status(lambda: check_trackers(["wandb"])) == 2
    error = capsys.readouterr().err
    assert "pip install 'ist_jax[wandb]'" in error and error.count("\n") == 1

    def nobody(**options):
        raise RuntimeError("No API key configured")

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=nobody))
    with pytest.raises(TrackerError, match="'trackio' does not start .No API key configured"):
        trackers.trackers(["trackio"], "project", tmp_path / "run", {})
    assert not (tmp_path / "run" / "trackio.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of these libraries' own dependencies
def test_wandb_itself_keeps_one_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    kept = JsonLines(tmp_path / "metrics.jsonl")
    for rows in ([row(1), EVALUATED], [EVALUATED, row(3)]):
        logger = WandB("project", tmp_path, {"seed": 3})
        for taken in rows:
            logger.log(taken)
            kept.log(taken)
        logger.close()
    kept.close()
    folders = sorted(folder.name for folder in (tmp_path / "wandb").glob("offline-run-*"))
    identity = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert folders and all(name.endswith(identity) for name in folders)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_itself_keeps_the_rows_of_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    kept = JsonLines(tmp_path / "metrics.jsonl")
    for rows in ([row(1), EVALUATED], [EVALUATED, row(3)]):
        logger = Trackio("project", tmp_path, {"seed": 3})
        for taken in rows:
            logger.log(taken)
            kept.log(taken)
        logger.close()
    kept.close()
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("project")
    logs = SQLiteStorage.get_logs("project", run.name, run_id=run.id)
    assert [(log["step"], log["train/loss"]) for log in logs] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
