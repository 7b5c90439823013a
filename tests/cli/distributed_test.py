"""Runs of several processes: joined by flags, ended when one dies, resumed by fewer."""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from jax.errors import JaxRuntimeError
from processes import PATIENCE, ended, two_hosts, wait_until

from ist_jax.cli import distributed
from ist_jax.cli.commands import launch_local, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import flags_only

ROOT = pathlib.Path(__file__).parent.parent.parent
DIGITS = f"--config={ROOT}/experiments/demo/digits.py"
SMALL = [
    "--model.hidden",
    "32",
    "32",
    "--num_subnets=4",
    "--local_steps=5",
    "--batch_size=16",
]


# runs one of the processes, with less patience than a user has
IMPATIENT = "import sys; from ist_jax.cli import distributed; distributed.HEARTBEAT = 5; "
IMPATIENT += "from ist_jax.cli.commands import run; sys.exit(run.main(['run', *sys.argv[1:]]))"
RUN = [sys.executable, "-m", "ist_jax", "run"]
LAUNCH = [sys.executable, "-m", "ist_jax", "launch-local", "--processes=2"]
ENVIRONMENT = os.environ | {
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_PLATFORMS": "cpu",
}


def start_two(arguments, of_second=()):
    """Both processes of a run, each with its pipes."""
    flags = [f"--coordinator=localhost:{launch_local.free_port()}", "--num_processes=2"]
    command = [sys.executable, "-c", IMPATIENT, DIGITS, *SMALL, *flags, *arguments]
    options = dict(
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return [
        subprocess.Popen([*command, f"--process_id={i}", *(of_second if i else [])], **options)
        for i in range(2)
    ]


def run_to_the_end(command):
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost,number", [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_when_a_process_dies_the_others_end_and_fewer_devices_resume(tmp_path, lost, number):
    """Two processes of two devices each; one is killed, or silent as if its host had lost its
    power. The other ends. Then one process of two devices takes the run to its end."""
    workdir = tmp_path / "run"
    arguments = ["--epochs=8", "--checkpoint_every=2", "--eval_every=20", f"--workdir={workdir}"]
    started = start_two(arguments)
    try:
        wait_until(
            lambda: (
                (workdir / "checkpoints" / "4.sha256").exists() or started[lost].poll() is not None
            )
        )
        started[lost].send_signal(number)
        began = time.monotonic()
        printed = ended([started[1 - lost]])[0][1]
    finally:
        started[lost].kill()
        started[lost].communicate()
    assert time.monotonic() - began < 30, "in bounded time"
    assert started[1 - lost].returncode, printed
    checkpoints = [int(file.stem) for file in (workdir / "checkpoints").glob("*.sha256")]
    assert "Traceback" not in printed
    if number == signal.SIGSTOP:
        assert "stopped sending heartbeats" in printed
        return
    alone = run_to_the_end([*RUN, DIGITS, *SMALL, *arguments])
    assert alone.returncode == 0, alone.stderr
    assert f"after round {max(checkpoints)}" in alone.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == sorted({row["round"] for row in rows})
    assert json.loads((workdir / "summary.json").read_text())["status"] == "finished"


def test_the_launcher_says_which_process_ended_early_and_from_where_the_run_resumes(tmp_path):
    """Whatever JAX says when it ends the others of a process that was killed."""
    crashed = [sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)"]
    statuses = launch_local.wait([subprocess.Popen(crashed)])
    assert statuses == [-9]
    says = launch_local.early_ends([0, *statuses], tmp_path)
    assert says == (
        "error: process 1 of 2 (by SIGKILL) ended before the run did: start the same command "
        "again everywhere; nothing is saved yet"
    )
    (tmp_path / "checkpoints").mkdir()
    for round in (2, 12):
        (tmp_path / "checkpoints" / f"{round}.sha256").write_text("")
    says = launch_local.early_ends([-6, -9], tmp_path)
    assert "process 0 of 2 (by SIGABRT) and process 1 of 2 (by SIGKILL) ended" in says
    assert says.endswith("start the same command again everywhere; it resumes from round 12")
    assert launch_local.early_ends([0, 1, 2, 3], tmp_path) is None, "these say why themselves"


def test_a_process_that_sees_another_one_end_says_so_in_one_line(tmp_path, monkeypatch, capfd):
    """The error of a collective whose other side is gone, as JAX raises it."""

    def gone(status):
        raise SystemExit(status)

    monkeypatch.setattr(distributed, "is_one_of_several", lambda: True)
    monkeypatch.setattr(distributed.os, "_exit", gone)
    with pytest.raises(SystemExit) as left, distributed._together(tmp_path):
        raise JaxRuntimeError("Connection closed by peer [127.0.0.1]:1\nmore")
    said = capfd.readouterr().err
    assert left.value.code == 1 and said.count("\n") == 1
    assert "another process of this run has ended (Connection closed by peer" in said
    assert said.endswith("start the same command again everywhere; nothing is saved yet\n")
    with pytest.raises(SystemExit), distributed._together(tmp_path):
        raise JaxRuntimeError("Gloo: connect [127.0.1.1]:1: Connection refused")
    assert "or its host's name resolves to an address that others do not" in capfd.readouterr().err


@pytest.mark.slow
def test_two_processes_write_one_record_and_stop_together(tmp_path):
    workdir = tmp_path / "run"
    arguments = [DIGITS, *SMALL, "--epochs=3", f"--workdir={workdir}"]
    launch = [*LAUNCH, "--devices=2", "--", *arguments]
    ended = run_to_the_end(launch)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test accuracy") == 1, "process 0 alone speaks"
    assert "ended before" not in ended.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert (
        summary["bytes_per_sync_per_device"]["compiled"]
        == summary["bytes_per_sync_per_device"]["arithmetic"]
    )
    environment = json.loads((workdir / "config.json").read_text())["environment"]
    assert len(environment["devices"]) == 4
    (newest, *_) = sorted((workdir / "checkpoints").glob("*/"), key=lambda path: -int(path.name))
    written = {path.name for path in newest.rglob("ocdbt.process_*")}
    assert written == {"ocdbt.process_0", "ocdbt.process_1"}, "each writes its own shards"
    again = run_to_the_end(launch)
    assert again.returncode == 0 and "finished already" in again.stderr


def test_a_frozen_process_does_not_outlive_a_failed_one(monkeypatch):
    monkeypatch.setattr(launch_local, "PATIENCE", 0.2)
    monkeypatch.setattr(launch_local.signal, "signal", lambda *args: None)

    def program(code):
        return subprocess.Popen([sys.executable, "-S", "-c", code])

    frozen = program("import time; time.sleep(600)")
    assert launch_local.wait([program("import sys; sys.exit(3)"), frozen]) == [3, -9]
    assert launch_local.wait([program(""), program("import time; time.sleep(0.5)")]) == [0, 0]


@pytest.mark.slow
def test_what_is_wrong_on_one_host_ends_all_with_a_line_each(tmp_path):
    """Process 1 has no data; in another run, another learning rate."""
    for extra, says in (
        (["--data.name=npz", f"--data.dir={tmp_path}/none.npz"], "is not a file"),
        (["--optimizer.learning_rate=0.5"], "optimizer.learning_rate was"),
    ):
        started = start_two([f"--workdir={tmp_path / 'run'}"], extra)
        (_, first), (_, second) = ended(started)
        assert started[1].returncode == 2 and says in second, second
        assert started[0].returncode == 1 and "another process of this run" in first, first
        assert "Traceback" not in first + second and "ended before" not in first + second


@pytest.mark.slow
@pytest.mark.parametrize(
    "option,says",
    [
        (
            "--num_subnets=3",
            "2 processes train over a mesh: their devices must divide the 3 workers of ist",
        ),
        ("--link.bandwidth=1Gbps", "these 2 devices exchange over a real one, whose time is"),
    ],
    ids=["no mesh", "a link that would count twice"],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path, option, says):
    launch = [*LAUNCH, "--devices=1", "--", DIGITS, *SMALL]
    ended = run_to_the_end([*launch, option, f"--workdir={tmp_path / 'run'}"])
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2 and says in said, said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "environ,is_detected",
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[0-3]"}, True),
        ({"SLURM_NTASKS": "4"}, False),  # in the batch script itself, outside srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False),  # there, too
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n0"}, False),
        (  # an interactive step of salloc -n4
            {
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "4",
                "SLURM_STEP_NODELIST": "n0",
                "SLURM_STEP_NUM_TASKS": "1",
            },
            False,
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"TPU_PROCESS_ADDRESSES": "t0:8471,t1:8471"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_launchers_are_detected(environ, is_detected):
    assert distributed.is_detected(environ) == is_detected


@pytest.mark.parametrize(
    "environ,has_other_hosts",
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, True),
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}, False),  # outside srun
        (
            {
                "SLURM_PROCID": "0",
                "SLURM_STEP_NODELIST": "n[0-1]",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_NUM_NODES": "2",
            },
            True,
        ),
    ],
)
def test_launchers_say_whether_there_are_other_hosts(environ, has_other_hosts):
    assert distributed.has_other_hosts(environ) == has_other_hosts


def test_the_name_of_a_host_matters_on_cpu_only(monkeypatch):
    assert distributed.trains_on_cpu({"JAX_PLATFORMS": "cpu"})
    assert not distributed.trains_on_cpu({"JAX_PLATFORMS": "cuda,cpu"})
    plugins = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: plugins)
    assert distributed.trains_on_cpu({})
    assert not distributed.trains_on_cpu({"TPU_ML_PLATFORM": "JAX"})
    plugins.append("xla_cuda")
    assert not distributed.trains_on_cpu({})


IN_POD = """
import os, sys, jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # JAX finds no TPU here
from ist_jax.cli import distributed
if "late" in sys.argv:  # as in a notebook
    jax.config.update("jax_platforms", "cpu")
    jax.devices()
for _ in range(2):  # as a sweep's runs do
    distributed.join(distributed.Processes(connect_timeout=30))
from jax._src.distributed import global_state
print("process", global_state.process_id, "of", global_state.num_processes)
"""


@contextlib.contextmanager
def metadata_server(**values):
    """The address of a Cloud TPU VM's metadata server, as far as JAX asks it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = values.get(self.path.rsplit("/", 1)[1].replace("-", "_"))
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def on_tpu_vm(address, port="0", *arguments):
    """A process that joins its pod; JAX is told of a TPU VM with a metadata server at `address`."""
    told = {"GCE_METADATA_IP": address, "JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": port}
    environ = {name: value for name, value in ENVIRONMENT.items() if name != "JAX_PLATFORMS"} | told
    options = dict(cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", IN_POD, *arguments], **options)


def said_by(job, of_process):
    """What two processes print that join by what a launcher gives to all, and to each; no flags."""
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    tasks = [ENVIRONMENT | job | dict.fromkeys(of_process, i) for i in "01"]
    return ended(
        [subprocess.Popen([sys.executable, "-c", IN_POD], env=task, **options) for task in tasks]
    )


@pytest.mark.parametrize("of_job", ["2", "4"])
def test_srun_says_who_the_processes_are(of_job):
    """JAX makes the job's number a port. The job may have more tasks than the step."""
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": of_job,
        "SLURM_STEP_NUM_TASKS": "2",
    }
    said = said_by(job, ["SLURM_PROCID", "SLURM_LOCALID"])
    assert [out for out, _ in said] == ["process 0 of 2\n", "process 1 of 2\n"], said


def test_a_slurm_task_that_srun_did_not_start_trains_alone_and_says_so_once():
    """In an interactive step of salloc -n4 and in a batch script: JAX would wait for 4."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [sys.executable, "-c", IN_POD]
    said = ended(
        [subprocess.Popen(command, env=ENVIRONMENT | task, **options) for task in (job | step, job)]
    )
    assert [out for out, _ in said] == ["process 0 of 1\n"] * 2, said
    for _, error in said:
        assert error.count("this host trains alone (the SLURM job has 4 tasks") == 1, error


def test_peers_that_never_come_are_one_line_and_status_2(tmp_path):
    """JAX would abort. Process 0 waits for another; one waits for process 0; one was started by
    srun, without another."""
    port, silent = launch_local.free_port(), launch_local.free_port()
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    cases = (
        (
            ["--num_processes=2", f"--coordinator=localhost:{port}", "--process_id=0"],
            {},
            f"localhost:{port} answers, but not all 2 processes have come",
        ),
        (
            ["--num_processes=2", f"--coordinator=localhost:{silent}", "--process_id=1"],
            {},
            f"nothing answers at localhost:{silent}: ",
        ),
        ([], step, "some have not started, or cannot be reached"),
    )
    pipes = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [*RUN, DIGITS, f"--workdir={tmp_path / 'run'}", "--connect-timeout=3"]
    started = [
        subprocess.Popen([*command, *flags], env=ENVIRONMENT | environ, **pipes)
        for flags, environ, _ in cases
    ]
    for (_, error), (_, _, says) in zip(ended(started), cases, strict=True):
        errors = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "do not find each other" in errors[0], error
        assert says in errors[0] and "within 3 s (--connect-timeout)" in errors[0], error
        assert "Traceback" not in error and "Check failure" not in error, error
    assert [process.returncode for process in started] == [2, 2, 2]
    assert not (tmp_path / "run").exists()


def of_two_hosts(hosts, workdir, *arguments):
    """What the processes of a run on two hosts print; process 0 is on the first."""
    flags = ["--coordinator=h0:8476", "--num_processes=2", f"--workdir={workdir}", *arguments]
    pipes = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [
        subprocess.Popen(
            [*host, *RUN, DIGITS, *SMALL, *flags, f"--process_id={i}"], env=ENVIRONMENT, **pipes
        )
        for i, host in enumerate(hosts)
    ]
    said = ended(started)
    return [(process.returncode, error) for process, (_, error) in zip(started, said, strict=True)]


def test_a_host_whose_name_is_a_loopback_address_ends_both_with_a_line_each(tmp_path):
    right = "192.168.77.1 h0\n192.168.77.2 h1"
    with two_hosts(tmp_path, right, "192.168.77.1 h0\n127.0.1.1 h1") as hosts:
        first, second = of_two_hosts(hosts, tmp_path / "run", "--connect-timeout=5")
    assert first[0] == second[0] == 2, (first, second)
    assert "h0:8476 answers, but not all 2 processes have come" in first[1], first
    assert "'h1' resolves to 127.0.1.1" in second[1], second
    assert "map the name to 192.168.77.2 in /etc/hosts" in second[1], second
    assert "Traceback" not in first[1] + second[1]


@pytest.mark.slow
@pytest.mark.parametrize("of_h0", ["192.168.77.1", "127.0.1.1"], ids=["right", "loopback"])
def test_two_hosts_train_together_if_their_names_lead_to_each_other(tmp_path, of_h0):
    """If the name of process 0's host leads back to it, both end with the reason."""
    names = [f"{of_h0} h0\n192.168.77.2 h1", "192.168.77.1 h0\n192.168.77.2 h1"]
    with two_hosts(tmp_path, *names) as hosts:
        first, second = of_two_hosts(hosts, tmp_path / "run", "--epochs=2")
    if of_h0 == "192.168.77.1":
        assert first[0] == second[0] == 0, (first, second)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["status"] == "finished"
        return
    assert first[0] and second[0], (first, second)
    assert "warning: this host's name 'h0' resolves to 127.0.1.1" in first[1], first
    assert "its host's name resolves to an address that others do not reach" in second[1], second


def test_mpirun_says_who_the_processes_are():
    """Of Open MPI before 5. JAX makes the job's number, a multiple of 4096, a port."""
    job = {
        "OMPI_MCA_orte_hnp_uri": f"{4096 * os.getpid()}.0;tcp://127.0.0.1,10.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
    }
    said = said_by(job, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"])
    assert [out for out, _ in said] == ["process 0 of 2\n", "process 1 of 2\n"], said


@pytest.mark.slow
def test_what_one_process_began_two_resume(tmp_path):
    workdir = tmp_path / "run"
    uneven = ["--model.hidden", "30", "30"]  # which 4 subnetworks do not divide
    arguments = [
        DIGITS,
        *SMALL,
        *uneven,
        "--epochs=8",
        "--checkpoint_every=2",
        f"--workdir={workdir}",
    ]
    alone = subprocess.Popen([*RUN, *arguments], cwd=ROOT, env=ENVIRONMENT)
    wait_until(lambda: (workdir / "checkpoints" / "2.sha256").exists() or alone.poll() is not None)
    alone.terminate()
    ended([alone])
    assert alone.returncode == 3, "stopped, and saved"
    launch = [*LAUNCH, "--devices=2", "--"]
    together = run_to_the_end([*launch, *arguments])
    assert together.returncode == 0, together.stderr
    assert json.loads((workdir / "summary.json").read_text())["status"] == "finished"
    assert "devices" in json.loads((workdir / "resumes.jsonl").read_text())["environment"]


def test_the_hosts_of_a_tpu_pod_are_those_of_its_metadata():
    pod, port = (
        dict(worker_network_endpoints="127.0.0.1,127.0.0.1", tpu_env=""),
        str(launch_local.free_port()),
    )
    with (
        metadata_server(agent_worker_number="0", **pod) as first,
        metadata_server(agent_worker_number="1", **pod) as second,
    ):
        said = ended([on_tpu_vm(first, port), on_tpu_vm(second, port)])
    assert [out for out, _ in said] == ["process 0 of 2\n", "process 1 of 2\n"], said


@pytest.mark.slow
def test_a_tpu_vm_of_no_pod_trains_alone():
    """Its server knows of no pod; there is no server; it is too late to join.

    A pod of one host is said nowhere.
    """
    port = str(launch_local.free_port())
    with (
        metadata_server() as none,
        metadata_server(agent_worker_number="0", worker_network_endpoints="127.0.0.1") as of_one,
    ):
        asked = [
            on_tpu_vm(none),
            on_tpu_vm(f"127.0.0.1:{port}"),
            on_tpu_vm(of_one, port, "late"),
            on_tpu_vm(of_one, port),
        ]
        said = ended(asked)
    assert [out for out, _ in said] == ["process 0 of 1\n"] * 4, said
    assert ["this host trains alone" in error for _, error in said] == [True, True, True, False], (
        said
    )


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--coordinator=localhost:1"], "--num-processes, --process-id is missing"),
        (
            ["--coordinator=localhost:1", "--num_processes=two", "--process_id=0"],
            "--num-processes is an integer, not 'two'",
        ),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "from 0 to 1 (num-processes - 1), not 2",
        ),
        (
            ["--coordinator=localhost", "--num_processes=2", "--process_id=1"],
            "--coordinator is HOST:PORT, such as 10.0.0.1:8476, not 'localhost'",
        ),
        (
            ["--coordinator=nowhere.invalid:1", "--num_processes=2", "--process_id=1"],
            "the host 'nowhere.invalid' is unknown here",
        ),
        (["--connect-timeout=0"], "--connect-timeout is from 1 to 3000, not 0"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(arguments, says, capsys):
    assert run.main(["run", DIGITS, "--workdir=x", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_flags_may_be_two_words_and_the_last_of_a_name_counts():
    address = ["--coordinator", "a:1", "--coordinator=b:2"]
    others = ["--config=x", "--model.hidden", "8", "--seed=1"]
    words = ["--process_id", "1", *others, "--num-processes=2", *address, "--workdir", "w"]
    flags = flags_only(distributed.TrainingFlags, ["run", *words])
    assert flags == distributed.TrainingFlags("x", "b:2", 2, 1, workdir="w")

    def workdir(*words):
        return flags_only(distributed.TrainingFlags, ["run", *words]).workdir

    assert workdir("--workdir", "a") == workdir("--workdir=a") == "a"
    assert workdir("--workdir=a", "--data.dir=--workdir=c", "--workdir", "b=1") == "b=1"
    assert workdir("--config=x") == ""


def test_a_launcher_that_does_not_say_enough_is_one_line_with_the_flags(monkeypatch):
    """Open MPI says that there are two processes, and here not where they find each other."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError,
        match="find each other .*each of them --coordinator, --num-processes, --process-id",
    ):
        distributed.join(distributed.Processes())


def test_wrong_launches_are_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr(launch_local, "start", lambda flags: pytest.fail("a process was started"))
    for arguments, says in (
        ([], "after --"),
        (["--processes=0", "--", "--config=x"], "at least 1"),
        (["--many", "--"], "--many"),
        (["--", "--config=x", "--workdir"], "Missing value for argument '--workdir'"),
        (["--", "--num-processes=two"], "--num-processes is an integer, not 'two'"),
    ):
        assert launch_local.main(["launch-local", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    with pytest.raises(ConfigError, match="is missing"):
        distributed.join(distributed.Processes(process_id=1))
