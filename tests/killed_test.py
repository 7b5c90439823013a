"""A run as a process: killed at any moment, or asked to stop, it ends as an unbroken one does."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from experiments_test import QUICK

from experiments.restored import restore
from experiments.signals import Signals
from experiments.status import STOPPED, exit_status

ROOT = pathlib.Path(__file__).parent.parent
TIMING = ("seconds", "compile_seconds", "evaluation_seconds", "samples_per_second")
LONG = [
    *(argument for argument in QUICK if "epochs" not in argument),
    *("--config.epochs=30", "--config.checkpoint_every=6", "--config.eval_every=5", "--config.opt_state=carry"),
    *(
        "--config.optimizer.name=adam",
        "--config.optimizer.schedule=cosine",
        "--config.warmup_phase=0.3",
        "--config.dense_phase=0.2",
    ),
]


def start(workdir, arguments=LONG):
    command = [sys.executable, "-m", "experiments.run", *arguments, f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(process):
    error = process.communicate()[1]
    assert process.returncode == 0, error
    return error


def record(workdir):
    """Rows and summary without timing, and the parameters."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "summary.json").read_text())
    timeless = lambda values: {name: value for name, value in values.items() if name not in (*TIMING, "seconds_per_local_step")}
    restored = restore(workdir)
    params = restored.algorithm.params(restored.state)
    return [timeless(row) for row in rows], timeless(summary), params


def assert_same_run(one, other):
    (rows, summary, params), (other_rows, other_summary, other_params) = record(one), record(other)
    assert rows == other_rows and summary == other_summary
    for name in params:
        for leaf in params[name]:
            np.testing.assert_array_equal(params[name][leaf], other_params[name][leaf])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A finished run, and how many seconds its process took."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    ended(start(workdir.with_name("warm")))  # fills the compilation cache
    began = time.perf_counter()
    ended(start(workdir))
    return workdir, time.perf_counter() - began


def test_a_run_that_is_killed_ten_times_ends_as_the_unbroken_one(unbroken, tmp_path):
    """Killed by SIGKILL at random moments, the very first seconds among them, each time going on where it died."""
    workdir, seconds = unbroken
    moments = [0.5, 1.5, 0.4 * seconds, *(random.Random(0).uniform(0.2, 1.0) * seconds for _ in range(7))]
    folder, alive = tmp_path / "0", 0
    for number, moment in enumerate(moments):
        process = start(folder)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # it was quicker: one more run, for the moments that are left
            assert_same_run(folder, workdir)
            folder = tmp_path / str(number + 1)
            continue
        assert process.returncode == -signal.SIGKILL and not (folder / "summary.json").exists()
        alive += (folder / "checkpoints").exists()
    assert alive > 1, "some died after their first checkpoint"
    ended(start(folder))
    assert_same_run(folder, workdir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_has_a_status_of_its_own(unbroken, tmp_path, number):
    process = start(tmp_path)
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == STOPPED == 3, error
    assert "the same command goes on from there" in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "summary.json").exists()
    stopped_in = int(error.rsplit("round ", 1)[1].split(",")[0])
    assert f"going on after round {stopped_in}" in ended(start(tmp_path))
    assert_same_run(tmp_path, unbroken[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_training_a_signal_ends_the_command_and_in_training_the_second_one_does(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt, match="ended at once"):
            signal.raise_signal(number)
        with signals.deferred():
            assert not signals.received()
            signal.raise_signal(number)
            assert signals.received()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert exit_status(lambda: (_ for _ in ()).throw(KeyboardInterrupt("ended"))) == STOPPED


def test_two_processes_in_one_workdir(unbroken, tmp_path):
    first = start(tmp_path)
    while not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.02)
        assert first.poll() is None
    second = start(tmp_path)
    error = second.communicate()[1]
    if first.poll() is None or second.returncode:
        assert second.returncode == 1 and "another run is writing here" in error.splitlines()[-1]
    ended(first)
    assert_same_run(tmp_path, unbroken[0])
