"""Starts one run as several processes on this machine, as a trial of a run on several hosts.

    ist-jax launch-local --processes 2 --devices 2 -- --config FILE --workdir DIR [--FIELD VALUE]

Every process is an `ist-jax run`. The exit status is the largest of theirs. If a process fails, the
others end, too.
"""

import dataclasses
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import tyro

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import flags_only, parse
from ist_jax.cli.distributed import HEARTBEAT, TrainingFlags, how_to_resume
from ist_jax.cli.exit_status import STOPPED, WRONG, exit_status

PATIENCE = 5 * HEARTBEAT  # seconds that the others have to end by themselves after a failure


@dataclasses.dataclass(frozen=True)
class LaunchFlags:
    """The flags of `ist-jax launch-local`."""

    processes: int = 2
    """How many processes."""
    devices: int = 1
    """CPU devices of each process. 0: the devices that JAX finds."""
    arguments: tyro.conf.Positional[tuple[str, ...]] = ()
    """Arguments of `ist-jax run`, after --."""


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


def start(flags: LaunchFlags) -> list[subprocess.Popen]:
    """Starts the processes of one run."""
    environment = dict(os.environ)
    if flags.devices:
        environment |= {"JAX_NUM_CPU_DEVICES": str(flags.devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "ist_jax", "run", *flags.arguments]
    joined = ["--coordinator", f"localhost:{free_port()}", "--num-processes", str(flags.processes)]
    # in process groups: `wait` passes on a Ctrl-C; a second one from the terminal would end them
    return [
        subprocess.Popen(
            [*command, *joined, "--process-id", str(i)], env=environment, process_group=0
        )
        for i in range(flags.processes)
    ]


def _flags(argv: Sequence[str]) -> tuple[LaunchFlags, pathlib.Path]:
    """The flags of the command line, and the run's workdir. Raises ConfigError."""
    flags = parse(LaunchFlags, argv, __doc__)
    if not flags.arguments:
        raise ConfigError("the arguments of ist-jax run are missing: write them after --")
    if flags.processes < 1 or flags.devices < 0:
        raise ConfigError(
            "--processes is at least 1 and --devices at least 0, not "
            f"{flags.processes} and {flags.devices}"
        )
    run_flags = flags_only(TrainingFlags, ["run", *flags.arguments])
    return flags, pathlib.Path(run_flags.workdir)


def wait(started: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for all processes; their exit statuses, negative for a signal.

    SIGINT and SIGTERM are passed on. Processes that outlive a failed one for too long are killed.
    """

    def pass_on(number: int, frame: object) -> None:
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    failed_at = math.inf
    while any(process.poll() is None for process in started):
        if any(process.returncode for process in started):
            failed_at = min(failed_at, time.monotonic())
        if time.monotonic() > failed_at + PATIENCE:  # a hanging process does not end by itself
            for process in started:
                process.kill()
        time.sleep(0.1)
    return [process.returncode for process in started]


def early_ends(statuses: Sequence[int], workdir: pathlib.Path) -> str | None:
    """One line about processes that were killed or crashed; None if there are none."""
    ended = [(i, s) for i, s in enumerate(statuses) if s < 0 or s > max(WRONG, STOPPED)]
    if not ended:
        return None
    by = lambda s: f"by {signal.Signals(-s).name}" if s < 0 else f"with exit status {s}"
    named = " and ".join(f"process {i} of {len(statuses)} ({by(s)})" for i, s in ended)
    return f"error: {named} ended before the run did: {how_to_resume(workdir)}"


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    parsed: list[tuple[LaunchFlags, pathlib.Path]] = []
    status = exit_status(lambda: parsed.append(_flags(argv)))
    if not parsed:
        return status
    ((flags, workdir),) = parsed
    statuses = wait(start(flags))
    if (line := early_ends(statuses, workdir)) is not None:
        print(line, file=sys.stderr)
    return max(map(abs, statuses))
