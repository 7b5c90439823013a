"""One run on several processes or hosts: each runs the same command, joined by jax.distributed.

Under SLURM (srun), Open MPI 4 (mpirun) and on Cloud TPU, JAX discovers the other processes.
Elsewhere, every process is given the flags of `Processes`. All processes use one workdir, on a
shared file system.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
from jax.errors import JaxRuntimeError

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import ConfigFlags, flags_only
from ist_jax.cli.config.schema import PathText
from ist_jax.cli.exit_status import FAILED, exit_status, is_out_of_memory
from ist_jax.core.errors import first_line
from ist_jax.training.checkpoint import committed_rounds

TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # under Kubernetes
HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
FLAGS = "--coordinator, --num-processes, --process-id"


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process of a run this is; all three flags, or none."""

    coordinator: str | None = None
    """HOST:PORT at which process 0 listens."""
    num_processes: int | None = None
    """How many processes the run has."""
    process_id: int | None = None
    """The number of this one, from 0."""


@dataclasses.dataclass(frozen=True)
class TrainingFlags(Processes, ConfigFlags):
    """The flags of a command that trains, besides the fields of the configuration."""

    workdir: PathText = ""
    """Folder for the records. sweep: for the workdirs of its runs."""


Flags = TypeVar("Flags", bound=TrainingFlags)


def is_detected(environ: Mapping[str, str]) -> bool:
    """Whether a launcher's environment variables tell JAX about several processes."""
    count = lambda name: int(environ[name]) if environ.get(name, "").isdigit() else 1
    # srun sets both; sbatch alone may set the first
    in_step = {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= environ.keys()
    slurm = in_step and count("SLURM_NTASKS") > 1
    tpu = any("," in environ.get(name, "") for name in TPU_HOSTS)
    several = count("OMPI_COMM_WORLD_SIZE") > 1 or count("MEGASCALE_NUM_SLICES") > 1
    return slurm or several or tpu


def may_be_in_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU VM, whose metadata server knows its other hosts, if any.

    Importing JAX sets the variables that say whether there are TPUs and a metadata server.
    """
    has_tpus = "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ
    uses_tpus = "tpu" in (environ.get("JAX_PLATFORMS") or "tpu")
    return has_tpus and uses_tpus and not any(name in environ for name in TPU_HOSTS)


def _is_told(flags: Processes) -> bool:
    """Whether the flags name this process. Raises ConfigError if some are missing or wrong."""
    names = [field.name for field in dataclasses.fields(Processes)]
    missing = [f"--{n.replace('_', '-')}" for n in names if getattr(flags, n) is None]
    if len(missing) == len(names):
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


def join(flags: Processes, timeout: int = 300) -> None:
    """Connects this process to the other processes of its run, if there are any.

    Args:
      flags: of this process.
      timeout: seconds within which all processes must start.

    Raises:
      ConfigError: the flags do not fit together, or the other processes do not answer.
    """
    is_told = _is_told(flags) or is_detected(os.environ)
    if jax.distributed.is_initialized():  # by an earlier run of a sweep
        return
    if not (is_told or may_be_in_pod(os.environ)):
        return
    try:
        jax.distributed.initialize(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        why = first_line(error)
        if not is_told and not _is_of_a_pod(error):
            print(f"this host trains alone ({why}); in a TPU pod, give {FLAGS}", file=sys.stderr)
            return
        raise ConfigError(
            f"the processes of this run do not find each other ({why}): start all of them within "
            f"{timeout} s, or give each of them {FLAGS}"
        ) from error


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
        print(
            f"error: another process of this run has ended ({first_line(error)}): "
            f"{how_to_resume(workdir)}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(FAILED)  # an orderly exit would wait for the dead process


def exit_status_of(kind: type[Flags], argv: Sequence[str], action: Callable[[], object]) -> int:
    """Connects this process to the others of its run, runs `action`, and returns its exit status.

    Args:
      kind: the class of the command's flags.
      argv: the command line, of which only these flags are read here.
      action: what all processes do together.
    """

    def joined() -> None:
        flags = flags_only(kind, argv)
        join(flags)
        with _together(pathlib.Path(flags.workdir)):
            action()

    status = exit_status(joined)
    if status and is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly exit would wait for the others, which may still be running
    return status
