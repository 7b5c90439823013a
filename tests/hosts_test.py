"""Runs of several processes: joined by flags, ended when one dies, gone on with by fewer."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import hosts, launch_local, run
from experiments.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = f"--config={ROOT}/experiments/demo/digits.py"
SMALL = ["--config.model.hidden=(32,32)", "--config.num_subnets=4", "--config.local_steps=5", "--config.batch_size=16"]


def wait_until(condition, seconds=240):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.1)


def children_of(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_when_a_process_dies_the_others_end_and_fewer_devices_go_on(tmp_path):
    """Two processes of two devices each; one is killed; then one process of two devices takes the run to its end."""
    workdir = tmp_path / "run"
    arguments = [
        DIGITS,
        *SMALL,
        "--config.epochs=60",
        "--config.checkpoint_every=2",
        "--config.eval_every=20",
        f"--workdir={workdir}",
    ]
    launch = [sys.executable, "-m", "experiments.launch_local", "--processes=2", "--devices=2", "--", *arguments]
    launched = subprocess.Popen(launch, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (workdir / "checkpoints" / "4.sha256").exists() or launched.poll() is not None)
    assert launched.poll() is None, launched.communicate()[0]
    os.kill(children_of(launched.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    printed = launched.communicate(timeout=hosts.HEARTBEAT + 60)[0]
    assert launched.returncode not in (0, None)
    assert time.monotonic() - began < hosts.HEARTBEAT + 45, "in bounded time"
    assert hosts.GONE in printed or "heartbeat" in printed.lower(), printed
    alone = subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert alone.returncode == 0, alone.stderr
    assert "going on after round" in alone.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == sorted({row["round"] for row in rows})
    assert json.loads((workdir / "summary.json").read_text())["status"] == "finished"


def test_two_processes_write_one_record_and_stop_together(tmp_path):
    workdir = tmp_path / "run"
    arguments = [DIGITS, *SMALL, "--config.epochs=3", f"--workdir={workdir}"]
    launch = [sys.executable, "-m", "experiments.launch_local", "--processes=2", "--devices=2", "--", *arguments]
    ended = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test accuracy") == 1, "process 0 alone speaks"
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["bytes_per_sync_per_device"]["compiled"] == summary["bytes_per_sync_per_device"]["arithmetic"]
    environment = json.loads((workdir / "config.json").read_text())["environment"]
    assert len(environment["devices"]) == 4
    again = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0 and "finished already" in again.stderr
    wrong = subprocess.run([*launch, "--config.seed=9"], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert wrong.returncode == 2 and "seed was 0, is 9" in wrong.stderr


def test_what_is_wrong_on_one_host_ends_all_with_a_line_each(tmp_path):
    """Process 1 has no data; in another run, another learning rate."""
    for extra, says in (
        (["--config.data.name=npz", f"--config.data.dir={tmp_path}/none.npz"], "is not a file"),
        (["--config.optimizer.learning_rate=0.5"], "optimizer.learning_rate was"),
    ):
        flags = [f"--coordinator=localhost:{launch_local.free_port()}", "--num_processes=2", f"--workdir={tmp_path / 'run'}"]
        command = [sys.executable, "-m", "experiments.run", DIGITS, *SMALL, *flags]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
        options = dict(cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started = [subprocess.Popen([*command, f"--process_id={i}", *(extra if i else [])], **options) for i in range(2)]
        (_, first), (_, second) = (process.communicate(timeout=120) for process in started)
        assert started[1].returncode == 2 and says in second, second
        assert started[0].returncode == 1 and "another process of this run" in first, first
        assert "Traceback" not in first + second


def test_processes_that_have_no_mesh_are_refused(tmp_path):
    launch = [sys.executable, "-m", "experiments.launch_local", "--processes=2", "--devices=1", "--", DIGITS, *SMALL]
    wrong = [*launch, "--config.num_subnets=3", f"--workdir={tmp_path / 'run'}"]
    ended = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, timeout=240)
    said = ended.stdout + ended.stderr
    assert ended.returncode and "2 processes train over a mesh: their devices must divide the 3 workers of ist" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "environ,found",
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, True),
        ({"SLURM_NTASKS": "4"}, False),  # in the batch script itself, outside srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
    ],
)
def test_launchers_are_detected(environ, found):
    assert hosts.detected(environ) == found


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--coordinator=localhost:1"], "--num_processes, --process_id is missing"),
        (["--coordinator=localhost:1", "--num_processes=two", "--process_id=0"], "are numbers, not 'two' and '0'"),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"], "from 0 to num_processes - 1 = 1, not 2"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(arguments, says, capsys):
    assert run.main(["run", DIGITS, "--workdir=x", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_wrong_launches_are_one_line_and_status_2(capsys):
    for arguments, says in (([], "after --"), (["--processes=0", "--"], "at least 1"), (["--many", "--"], "--many")):
        assert launch_local.main(["launch_local", *arguments]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is missing"):
        hosts.split(["--process_id=1"])
