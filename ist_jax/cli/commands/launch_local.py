"""Starts one run as several processes on this machine, to try out what runs on several hosts:

    python -m ist_jax.cli.commands.launch_local --processes=2 --devices=2 -- --config=FILE --workdir=DIR [--config.x=y]

Every process is `ist_jax.cli.commands.run` with its share of the run; `--devices` is how many CPU devices each has (0: what it
finds). Ends with the largest exit status; when a process fails, the others notice.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from ist_jax.cli.config import ConfigError
from ist_jax.cli.distributed import HEARTBEAT
from ist_jax.cli.exit_status import Parser, RawText, exit_status

PATIENCE = 4 * HEARTBEAT  # seconds in which the others of a failed process end by themselves


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


def start(processes: int, devices: int, arguments: Sequence[str]) -> list[subprocess.Popen]:
    """The processes of one run, started."""
    environment = dict(os.environ)
    if devices:
        environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "ist_jax.cli.commands.run", *arguments]
    flags = [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
    # in groups of their own: a Ctrl-C reaches them from here only, for a second one would end them at once
    return [
        subprocess.Popen([*command, *flags, f"--process_id={i}"], env=environment, process_group=0)
        for i in range(processes)
    ]


def _arguments(argv: Sequence[str]) -> tuple[int, int, list[str]]:
    if "--" not in argv:
        raise ConfigError("write the arguments of ist_jax.cli.commands.run after --")
    own, rest = list(argv[: argv.index("--")]), list(argv[argv.index("--") + 1 :])
    parser = Parser(
        prog="ist_jax.cli.commands.launch_local", description=__doc__, formatter_class=RawText
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    chosen = parser.parse_args(own)
    if chosen.processes < 1 or chosen.devices < 0:
        raise ConfigError(
            f"--processes is at least 1 and --devices at least 0, not {chosen.processes} and {chosen.devices}"
        )
    return chosen.processes, chosen.devices, rest


def _wait(started: Sequence[subprocess.Popen]) -> int:
    """The largest exit status; SIGINT and SIGTERM are passed on, and what has not noticed that another failed is killed."""

    def pass_on(number: int, frame: object) -> None:
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    failed_at = math.inf
    while any(process.poll() is None for process in started):
        if any(process.returncode for process in started):
            failed_at = min(failed_at, time.monotonic())
        if time.monotonic() > failed_at + PATIENCE:  # a process that is frozen notices nothing
            for process in started:
                process.kill()
        time.sleep(0.1)
    return max(abs(process.returncode) for process in started)


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    found = []
    if status := exit_status(lambda: found.append(_arguments(argv[1:]))):
        return status
    return _wait(start(*found[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
