"""One run on several processes or hosts: the same command on each, and jax.distributed between.

Under SLURM (srun), Open MPI 4 (mpirun) and on Cloud TPU, JAX finds the other processes. Elsewhere
every process is given the flags of `Processes`. All read and write one workdir, on a file system
that they share.
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
from ist_jax.cli.config.parsing import ConfigFlags, own_flags
from ist_jax.cli.exit_status import FAILED, exit_status, is_out_of_memory
from ist_jax.core.errors import first_line
from ist_jax.training.checkpoint import committed_rounds

TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # under Kubernetes
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
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
class RunFlags(Processes, ConfigFlags):
    """What a command that trains takes beside the fields of the configuration."""

    workdir: str = ""
    """Folder for the records. sweep: for the workdirs of its runs."""


Flags = TypeVar("Flags", bound=RunFlags)


def is_detected(environ: Mapping[str, str]) -> bool:
    """Whether JAX finds several processes in the environment that a launcher made."""
    count = lambda name: int(environ[name]) if environ.get(name, "").isdigit() else 1
    # of srun; sbatch alone may set the first
    in_step = {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= environ.keys()
    slurm = in_step and count("SLURM_NTASKS") > 1
    tpu = any("," in environ.get(name, "") for name in TPU_HOSTS)
    several = count("OMPI_COMM_WORLD_SIZE") > 1 or count("MEGASCALE_NUM_SLICES") > 1
    return slurm or several or tpu


def may_be_in_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU VM, whose metadata server knows its other hosts, if any.

    JAX, once imported, says in the environment whether there are TPUs, and whether there is no
    server to ask.
    """
    has_tpus = "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ
    uses_tpus = "tpu" in (environ.get("JAX_PLATFORMS") or "tpu")
    return has_tpus and uses_tpus and not any(name in environ for name in TPU_HOSTS)


def _is_told(flags: Processes) -> bool:
    """Whether the flags name this process. Raises ConfigError: only some are given, or wrong."""
    names = [field.name for field in dataclasses.fields(Processes)]
    missing = [f"--{n.replace('_', '-')}" for n in names if getattr(flags, n) is None]
    if len(missing) == len(names):
        return False
    if missing:
        raise ConfigError(f"several processes need {FLAGS}, and {', '.join(missing)} is missing")
    assert flags.num_processes is not None and flags.process_id is not None
    if not 0 <= flags.process_id < flags.num_processes:
        raise ConfigError(
            "--process-id is from 0 to num-processes - 1 = "
            f"{flags.num_processes - 1}, not {flags.process_id}"
        )
    return True


def join(flags: Processes, timeout: int = 300) -> None:
    """Joins the run's other processes, if there are any.

    Args:
      flags: of this process.
      timeout: seconds in which all processes must have started.

    Raises:
      ConfigError: flags that do not fit together, or the others do not answer.
    """
    is_told = _is_told(flags) or is_detected(os.environ)
    if jax.distributed.is_initialized():  # joined for a sweep's run before this one
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
            print(f"this host trains alone ({why}); in a TPU pod give {FLAGS}", file=sys.stderr)
            return
        raise ConfigError(
            f"the processes of this run do not find each other ({why}): start all of them within "
            f"{timeout} s, or, where a launcher does not say enough, give each {FLAGS}"
        ) from error


def _is_of_a_pod(error: Exception) -> bool:
    """Whether JAX had found hosts when it failed.

    It had not if no server answered, if no answer named a pod, or if it was too late to ask, as in
    a notebook that has computed.
    """
    asked_in_vain = re.search("coordinator_address should be|must be called before", str(error))
    return not isinstance(error, OSError) and asked_in_vain is None


def is_one_of_several() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def how_to_resume(workdir: pathlib.Path) -> str:
    """What to do when a process of a run is gone."""
    rounds = committed_rounds(workdir / "checkpoints")
    saved = f"it resumes from round {max(rounds)}" if rounds else "nothing is saved yet"
    return f"start the same command again everywhere; {saved}"


@contextlib.contextmanager
def _together(workdir: pathlib.Path) -> Iterator[None]:
    """Ends this process at once if another one of its run dies in what is done here."""
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
        os._exit(FAILED)  # an orderly exit waits for the process that is gone


def exit_status_of(kind: type[Flags], argv: Sequence[str], action: Callable[[], object]) -> int:
    """`exit_status` of `action`, once this process has joined the others of its run.

    Args:
      kind: the command's flags.
      argv: its command line, of which only these flags are read here.
      action: what all processes do together.
    """

    def joined() -> None:
        flags = own_flags(kind, argv)
        join(flags)
        with _together(pathlib.Path(flags.workdir)):
            action()

    status = exit_status(joined)
    if status and is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly exit waits for the others, who may not know yet
    return status
