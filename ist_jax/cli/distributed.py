"""One run on several processes or hosts: each runs the same command, joined by jax.distributed.

Under SLURM (srun), Open MPI 4 (mpirun) and on Cloud TPU, JAX discovers the other processes.
Elsewhere, every process is given the flags of `Processes`. All processes use one workdir, on a
shared file system.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

import jax
from jax.errors import JaxRuntimeError

from ist_jax.cli import hosts
from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import ConfigFlags, flags_only
from ist_jax.cli.config.types import PathText, Range
from ist_jax.cli.exit_status import FAILED, exit_status, is_out_of_memory
from ist_jax.core.errors import first_line
from ist_jax.training.checkpoint import committed_rounds

TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # under Kubernetes
HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
ABORT = 60  # seconds after our timeout at which JAX would abort the process
NAMES = ("coordinator", "num_processes", "process_id")
FLAGS = ", ".join(f"--{name.replace('_', '-')}" for name in NAMES)


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process of a run this is (all of the flags `NAMES`, or none), and how long it waits."""

    coordinator: str | None = None
    """HOST:PORT at which process 0 listens."""
    num_processes: int | None = None
    """How many processes the run has."""
    process_id: int | None = None
    """The number of this one, from 0."""
    connect_timeout: Annotated[int, Range(1, 3000)] = 120
    """Seconds within which all processes of the run must start."""


@dataclasses.dataclass(frozen=True)
class TrainingFlags(Processes, ConfigFlags):
    """The flags of a command that trains, besides the fields of the configuration."""

    workdir: PathText = ""
    """Folder for the records. sweep: for the workdirs of its runs."""
    loggers: tuple[str, ...] = ()
    """Experiment trackers that also get the metrics: trackio, wandb (extras of the package)."""
    project: str = "ist_jax"
    """The project under which trackers show the run."""


Flags = TypeVar("Flags", bound=TrainingFlags)


def _count(environ: Mapping[str, str], name: str, otherwise: int = 1) -> int:
    return int(environ[name]) if environ.get(name, "").isdigit() else otherwise


def slurm_tasks(environ: Mapping[str, str]) -> int:
    """The number of tasks in the SLURM step of this process; 1 outside srun."""
    # srun sets both; sbatch alone may set the first
    if not {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= environ.keys():
        return 1
    # SLURM_NTASKS may count the tasks of the job: an interactive step of salloc has only one
    return _count(environ, "SLURM_STEP_NUM_TASKS", _count(environ, "SLURM_NTASKS"))


def _tasks_of_step(environ: Mapping[str, str]) -> int | None:
    """The number of processes if srun, not mpirun, has started several; otherwise None.

    JAX would use SLURM_NTASKS, which may count the tasks of the job.
    """
    tasks = slurm_tasks(environ)
    return tasks if tasks > 1 and "OMPI_COMM_WORLD_SIZE" not in environ else None


def is_detected(environ: Mapping[str, str]) -> bool:
    """Whether a launcher's environment variables tell JAX about several processes."""
    tpu = any("," in environ.get(name, "") for name in TPU_HOSTS)
    several = ("OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    return slurm_tasks(environ) > 1 or tpu or any(_count(environ, name) > 1 for name in several)


def has_other_hosts(environ: Mapping[str, str]) -> bool:
    """Whether a launcher's environment variables say that the run has several hosts."""
    processes = _count(environ, "OMPI_COMM_WORLD_SIZE")
    if processes > 1:
        return _count(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", processes) < processes
    return slurm_tasks(environ) > 1 and _count(environ, "SLURM_STEP_NUM_NODES") > 1


def trains_on_cpu(environ: Mapping[str, str]) -> bool:
    """Whether JAX will use the CPU. JAX has not looked for devices yet.

    JAX_PLATFORMS decides. If it is not set, JAX uses the CPU unless there is a plugin or a TPU.
    """
    platforms = environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and "TPU_ML_PLATFORM" not in environ


def may_be_in_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU VM, whose metadata server knows its other hosts, if any.

    Importing JAX sets the variables that say whether there are TPUs and a metadata server.
    """
    has_tpus = "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ
    uses_tpus = "tpu" in (environ.get("JAX_PLATFORMS") or "tpu")
    return has_tpus and uses_tpus and not any(name in environ for name in TPU_HOSTS)


def _is_told(flags: Processes) -> bool:
    """Whether the flags name this process. Raises ConfigError if some are missing or wrong."""
    missing = [f"--{n.replace('_', '-')}" for n in NAMES if getattr(flags, n) is None]
    if len(missing) == len(NAMES):
        return False
    if missing:
        raise ConfigError(f"several processes need {FLAGS}, and {', '.join(missing)} is missing")
    assert flags.num_processes is not None and flags.process_id is not None
    if not 0 <= flags.process_id < flags.num_processes:
        raise ConfigError(
            f"--process-id is from 0 to {flags.num_processes - 1} (num-processes - 1), not "
            f"{flags.process_id}"
        )
    return True


@functools.cache
def _say_once(line: str) -> None:
    """Prints a line to standard error, only once even if several runs of a sweep say it."""
    print(line, file=sys.stderr)


def join(flags: Processes) -> None:
    """Connects this process to the other processes of its run, if there are any.

    Raises:
      ConfigError: the flags do not fit together, this host cannot take part, or the other processes
        do not answer.
    """
    has_flags, environ = _is_told(flags), os.environ
    if jax.distributed.is_initialized():  # by an earlier run of a sweep
        return
    is_told = has_flags or is_detected(environ)
    tasks = _count(environ, "SLURM_NTASKS")
    if not is_told and tasks > 1:
        _say_once(
            f"this host trains alone (the SLURM job has {tasks} tasks, and this is none of several "
            "that srun started); to train on all of them, write srun before the command"
        )
    if is_told or may_be_in_pod(environ):
        coordinator = hosts.host_and_port(flags.coordinator or "") if has_flags else None
        _check_host(flags, coordinator)
        _connect(flags, coordinator, is_told)


def _check_host(flags: Processes, coordinator: hosts.Coordinator | None) -> None:
    """Raises ConfigError if this host cannot take part in the run."""
    if coordinator is not None and flags.process_id == 0:
        hosts.check_coordinator(coordinator)
    if trains_on_cpu(os.environ) and flags.num_processes != 1:
        hosts.check_name(coordinator, coordinator is None and has_other_hosts(os.environ))


def _connect(flags: Processes, coordinator: hosts.Coordinator | None, is_told: bool) -> None:
    """Calls `_initialize`. Raises ConfigError if it fails, unless this host trains alone."""
    try:
        if _initialize(flags):
            return
        why = _absence(flags, coordinator)
    except (RuntimeError, ValueError, OSError) as error:
        why = first_line(error)
        if not is_told and not _is_of_a_pod(error):
            _say_once(f"this host trains alone ({why}); in a TPU pod, give {FLAGS}")
            return
    give = "or give each of them" if coordinator is None else "and give each of them its"
    raise ConfigError(
        f"the processes of this run do not find each other ({why}): start all of them within "
        f"{flags.connect_timeout} s (--connect-timeout), {give} {FLAGS}"
    )


def _initialize(flags: Processes) -> bool:
    """Calls `jax.distributed.initialize`. Returns whether all processes joined in time.

    The call runs in a thread, since JAX aborts the process after a timeout. Errors in the thread
    are raised here.
    """
    raised: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                flags.coordinator,
                flags.num_processes or _tasks_of_step(os.environ),
                flags.process_id,
                initialization_timeout=flags.connect_timeout + ABORT,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=HEARTBEAT,
            )
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(flags.connect_timeout)
    if raised:
        raise raised[0]
    return not thread.is_alive()


def _absence(flags: Processes, coordinator: hosts.Coordinator | None) -> str:
    """Which processes have not joined in time, as far as this one can tell."""
    if coordinator is None:
        return "some have not started, or cannot be reached"
    if (why := hosts.silence(coordinator)) is not None:
        return f"nothing answers at {flags.coordinator}: {why}"
    return f"{flags.coordinator} answers, but not all {flags.num_processes} processes have come"


def _is_of_a_pod(error: Exception) -> bool:
    """Whether JAX knew of other hosts when it failed with `error`.

    It did not if no server answered, if no answer named a pod, or if JAX was already in use, as in
    a notebook.
    """
    asked_in_vain = re.search("coordinator_address should be|must be called before", str(error))
    return not isinstance(error, OSError) and asked_in_vain is None


def is_one_of_several() -> bool:
    """Whether this process is connected to others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def how_to_resume(workdir: pathlib.Path) -> str:
    """How to resume a run that has lost a process, for messages."""
    rounds = committed_rounds(workdir / "checkpoints")
    saved = f"it resumes from round {max(rounds)}" if rounds else "nothing is saved yet"
    return f"start the same command again everywhere; {saved}"


@contextlib.contextmanager
def _together(workdir: pathlib.Path) -> Iterator[None]:
    """Ends this process at once if another process of its run dies during the code inside."""
    try:
        yield
    except JaxRuntimeError as error:
        if not is_one_of_several() or is_out_of_memory(error):
            raise
        what = f"another process of this run has ended ({first_line(error)})"
        if "Connection refused" in str(error):
            what += ", or its host's name resolves to an address that others do not reach"
        print(f"error: {what}: {how_to_resume(workdir)}", file=sys.stderr, flush=True)
        os._exit(FAILED)  # an orderly exit would wait for the dead process


def exit_status_of(kind: type[Flags], argv: Sequence[str], action: Callable[[], object]) -> int:
    """Connects this process to the others of its run, runs `action`, and returns its exit status.

    Args:
      kind: the class of the command's flags.
      argv: the command line, of which only these flags are read here.
      action: what all processes do together.
    """
    is_joined = False

    def joined() -> None:
        nonlocal is_joined
        flags = flags_only(kind, argv)
        join(flags)
        is_joined = True
        with _together(pathlib.Path(flags.workdir)):
            action()

    status = exit_status(joined)
    # before the processes have connected, JAX does not know how many there are
    may_have_others = is_one_of_several if is_joined else jax.distributed.is_initialized
    if status and may_have_others():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly exit would wait for the others, which may still be running
    return status
