"""One run on several processes or hosts: the same command on each, and jax.distributed between them.

    --coordinator=HOST:PORT --num_processes=N --process_id=I     anywhere; process 0 listens at the coordinator's address
    nothing                                                      under SLURM (srun), Open MPI 4 (mpirun), on Cloud TPU, as
                                                                 JAX detects them

All read and write one workdir, on a file system that they share.
"""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax.errors import JaxRuntimeError

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config_files import one_line
from ist_jax.cli.exit_status import FAILED, exit_status, is_out_of_memory
from ist_jax.cli.last_words import Beside

FLAGS = ("coordinator", "num_processes", "process_id")
TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # under Kubernetes
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead


def detected(environ: Mapping[str, str]) -> bool:
    """Whether JAX finds several processes in the environment that a launcher made."""
    more_than_one = lambda name: (
        environ.get(name, "1").isdigit() and int(environ.get(name, "1")) > 1
    )
    in_step = {
        "SLURM_PROCID",
        "SLURM_STEP_NODELIST",
    } <= environ.keys()  # of srun; sbatch alone may set the first
    slurm = in_step and more_than_one("SLURM_NTASKS")
    tpu = any("," in environ.get(name, "") for name in TPU_HOSTS)
    return (
        slurm
        or more_than_one("OMPI_COMM_WORLD_SIZE")
        or more_than_one("MEGASCALE_NUM_SLICES")
        or tpu
    )


def may_be_in_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a Cloud TPU VM, of whose other hosts, if there are any, its metadata server knows.

    JAX, once imported, says in the environment whether there are TPUs, and whether there is no server to ask.
    """
    has_tpus = "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ
    return (
        has_tpus
        and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu")
        and not any(name in environ for name in TPU_HOSTS)
    )


def taken(argv: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The last values of the flags `names`, given as --name=value or --name value, as absl reads them; the other arguments."""
    found, rest, words = {}, [], iter(argv)
    for word in words:
        flag, is_given, value = word.partition("=")
        if flag in [dashes + name for name in names for dashes in ("-", "--")]:
            found[flag.lstrip("-")] = value if is_given else next(words, "")
        else:
            rest.append(word)
    return found, rest


def split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The flags of this module by name, and the other arguments.

    Raises:
      ConfigError: only some of the three are given.
    """
    own, rest = taken(argv, FLAGS)
    if own and len(own) < len(FLAGS):
        missing = ", ".join(f"--{f}" for f in FLAGS if f not in own)
        raise ConfigError(
            f"several processes need --{', --'.join(FLAGS)}, and {missing} is missing"
        )
    return own, rest


def _numbers(own: Mapping[str, str]) -> tuple[int, int]:
    try:
        count, number = int(own["num_processes"]), int(own["process_id"])
    except ValueError:
        raise ConfigError(
            f"--num_processes and --process_id are numbers, not {own['num_processes']!r} and {own['process_id']!r}"
        ) from None
    if not 0 <= number < count:
        raise ConfigError(
            f"--process_id is from 0 to num_processes - 1 = {count - 1}, not {number}"
        )
    return count, number


def join(argv: Sequence[str], timeout: int = 300) -> list[str]:
    """Joins the run's other processes, if there are any; the arguments that are not of this module.

    Args:
      argv: without the program's name.
      timeout: seconds in which all processes must have started.

    Raises:
      ConfigError: flags that do not fit together, or the others do not answer.
    """
    own, rest = split(argv)
    told = bool(own) or detected(os.environ)
    if jax.distributed.is_initialized() or not (
        told or may_be_in_pod(os.environ)
    ):  # joined for a sweep's run before this one
        return rest
    options = {}
    if own:
        count, number = _numbers(own)
        options = dict(
            coordinator_address=own["coordinator"], num_processes=count, process_id=number
        )
    try:
        patience = dict(heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT)
        jax.distributed.initialize(**options, initialization_timeout=timeout, **patience)
    except (RuntimeError, ValueError, OSError) as error:
        if not told and not _is_of_a_pod(error):
            print(
                f"this host trains alone ({one_line(error)}); in a TPU pod give --{', --'.join(FLAGS)}",
                file=sys.stderr,
            )
            return rest
        raise ConfigError(
            f"the processes of this run do not find each other ({one_line(error)}): start all of them within {timeout} s, or, "
            f"where a launcher does not say enough, give each --{', --'.join(FLAGS)}"
        ) from error
    return rest


def _is_of_a_pod(error: Exception) -> bool:
    """Whether JAX had found hosts when it failed: not if no server answered, if no answer named a pod, or if it was too late to
    ask, as in a notebook that has computed."""
    asked_in_vain = re.search("coordinator_address should be|must be called before", str(error))
    return not isinstance(error, OSError) and asked_in_vain is None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once if another one of its run dies in what is done here; `last_words` says what to do."""
    try:
        yield
    except JaxRuntimeError as error:
        if (
            not jax.distributed.is_initialized()
            or jax.process_count() == 1
            or is_out_of_memory(error)
        ):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        os._exit(FAILED)  # leaving in good order waits for the process that is gone


def _beside(arguments: Sequence[str]) -> Beside:
    workdir = pathlib.Path(taken(arguments, ["workdir"])[0].get("workdir", ""))
    return Beside(jax.process_index(), jax.process_count(), workdir / "checkpoints")


def exit_status_of(argv: Sequence[str], run: Callable[[list[str]], None]) -> int:
    """`exit_status` of `run`, on what `join` leaves of the arguments."""
    beside: list[Beside] = []

    def joined() -> None:
        rest = join(argv)
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            beside.append(_beside(rest))
        with together():
            run(rest)

    status = exit_status(joined)
    for process in beside:
        process.all_is_well()
    if status and jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # leaving in good order waits for the others, who may not know yet
    return status
