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
from cases import also_slowly
from command_line import QUICK

from ist_jax.cli.commands import run
from ist_jax.cli.exit_status import STOPPED
from ist_jax.cli.records.restored import restore

ROOT = pathlib.Path(__file__).parent.parent.parent
TIMING = (
    "seconds",
    "compile_seconds",
    "evaluation_seconds",
    "samples_per_second",
    "simulated_seconds",
)
LONG = [
    *(argument for argument in QUICK if "epochs" not in argument),
    *(
        "--epochs=30",
        "--checkpoint_every=6",
        "--eval_every=5",
        "--opt_state=carry",
    ),
    *(
        "--optimizer.name=adam",
        "--optimizer.schedule=cosine",
        "--warmup_fraction=0.3",
        "--dense_fraction=0.2",
        "--time_syncs=False",
    ),
]


TIMEOUT = 300


def start(workdir, arguments=LONG):
    command = [sys.executable, "-m", "ist_jax", "run", *arguments, f"--workdir={workdir}"]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_name(workdir.name + ".err").open("w") as error:
        return subprocess.Popen(command, cwd=ROOT, stdout=error, stderr=error)


def said(workdir):
    return workdir.with_name(workdir.name + ".err").read_text()


def finish(workdir):
    """Starts the run in `workdir`, waits for its end, and returns what it said."""
    assert start(workdir).wait(TIMEOUT) == 0, said(workdir)
    return said(workdir)


def wait_for(process, happened):
    for _ in range(100 * TIMEOUT):
        if happened():
            return
        assert process.poll() is None
        time.sleep(0.01)
    raise AssertionError("it took too long")


MEASURED = (
    *TIMING,
    "seconds_per_local_step",
    "seconds_per_sync",
    "memory_bytes_per_device",
)


def record(workdir):
    """The parameters, and rows and summary without measurements (times, a program's memory)."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "summary.json").read_text())

    def timeless(values):
        return {name: value for name, value in values.items() if name not in MEASURED}

    restored = restore(workdir)
    params = restored.method.params(restored.state)
    return [timeless(row) for row in rows], timeless(summary), params


def assert_same_run(one, other):
    (rows, summary, params), (other_rows, other_summary, other_params) = record(one), record(other)
    assert rows == other_rows and summary == other_summary
    for name in params:
        for leaf in params[name]:
            np.testing.assert_array_equal(params[name][leaf], other_params[name][leaf])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of a finished run."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    finish(workdir)
    return workdir


def test_a_run_that_is_killed_before_and_after_its_first_checkpoint_ends_as_the_unbroken_one(
    unbroken, tmp_path
):
    """By SIGKILL; each time it resumes where it died."""
    folder = tmp_path / "run"
    process = start(folder)
    time.sleep(1.5)
    process.kill()
    assert process.wait(TIMEOUT) == -signal.SIGKILL, said(folder)
    process = start(folder)
    wait_for(process, lambda: list((folder / "checkpoints").glob("*.sha256")))
    process.kill()
    assert process.wait(TIMEOUT) == -signal.SIGKILL, said(folder)
    finish(folder)
    assert_same_run(folder, unbroken)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_as_the_unbroken_one(unbroken, tmp_path):
    """SIGKILL ends it at random moments, even in the first second. It resumes every time."""
    workdir, began = unbroken, time.perf_counter()
    finish(tmp_path / "timed")
    seconds = time.perf_counter() - began  # with what it compiles in the cache
    rng, folder, after_a_checkpoint, killed, tried = random.Random(0), tmp_path / "0", 0, 0, 0
    while killed < 10:
        moment = [0.5, 1.5][tried] if tried < 2 else rng.uniform(0.3, 1.0) * seconds
        tried += 1
        process = start(folder)
        time.sleep(moment)
        process.kill()
        process.wait(TIMEOUT)
        if (
            folder / "summary.json"
        ).exists():  # it was quicker: one more run, for the moments that are left
            assert_same_run(folder, workdir)
            folder = tmp_path / str(tried)
            continue
        assert process.returncode == -signal.SIGKILL, said(folder)
        killed += 1
        after_a_checkpoint += bool(list((folder / "checkpoints").glob("*.sha256")))
    assert after_a_checkpoint > 1, "some died after their first checkpoint"
    finish(folder)
    assert_same_run(folder, workdir)
    left = {path.name.split(".")[0] for path in (folder / "checkpoints").iterdir()}
    assert len(left) == 2 and all(name.isdigit() for name in left), "nothing half-written stays"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_has_a_status_of_its_own(unbroken, tmp_path, number):
    workdir = tmp_path / "run"
    process = start(workdir)
    metrics = workdir / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_text())
    process.send_signal(number)
    assert process.wait(TIMEOUT) == STOPPED == 3, said(workdir)
    assert "the same command resumes from there" in said(workdir).splitlines()[
        -1
    ] and "Traceback" not in said(workdir)
    assert not (workdir / "summary.json").exists()
    stopped_in = int(said(workdir).rsplit("round ", 1)[1].split(",")[0])
    assert f"resuming after round {stopped_in}" in finish(workdir)
    assert_same_run(workdir, unbroken)


def catches(process, number):
    """Whether the process has its own handler for a signal."""
    caught = next(
        line
        for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if "SigCgt" in line
    )
    return int(caught.split()[1], 16) >> (number - 1) & 1


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(),
    reason="this system does not show who catches signals",
)
@pytest.mark.parametrize("number", also_slowly([signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]))
def test_a_signal_amid_the_imports_ends_the_command_with_the_same_status(tmp_path, number):
    process = start(tmp_path / "run")
    wait_for(process, lambda: catches(process, signal.SIGTERM))  # Python itself catches SIGINT
    process.send_signal(number)
    assert process.wait(TIMEOUT) == STOPPED, said(tmp_path / "run")
    assert said(tmp_path / "run") == f"{number.name}: ended before the command began\n"


@pytest.mark.slow
def test_a_stop_that_arrives_twice_is_one_and_loses_no_progress(unbroken, tmp_path):
    """As some launchers send it, 0.5 ms apart. Two signals, as the kernel merges equal ones."""
    workdir = tmp_path / "run"
    process = start(workdir)
    metrics = workdir / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == STOPPED, said(workdir)
    assert "the same command resumes from there" in said(workdir).splitlines()[-1]
    assert said(workdir).count("saving after this round") == 1
    finish(workdir)
    assert_same_run(workdir, unbroken)


@pytest.mark.slow
def test_a_second_run_in_a_workdir_is_refused_and_harms_nothing(unbroken, tmp_path, capsys):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, lambda: list((workdir / "checkpoints").glob("*.sha256")))
    process.send_signal(signal.SIGSTOP)  # it holds the workdir for as long as we like
    assert run.main(["run", *LONG, f"--workdir={workdir}"]) == 1
    assert "another run is writing here" in capsys.readouterr().err.splitlines()[-1]
    process.send_signal(signal.SIGCONT)
    assert process.wait(TIMEOUT) == 0, said(workdir)
    assert_same_run(workdir, unbroken)
