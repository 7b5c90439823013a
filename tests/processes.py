"""Programs that tests start, and which none of them outlives."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

PATIENCE = 600.0  # seconds; on a busy machine two processes that compile take minutes


def ended(processes: Sequence[subprocess.Popen], patience: float = PATIENCE) -> list[tuple]:
    """(stdout, stderr) of each, once all have ended; those that do not end are killed."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)  # nothing, of one that has ended
        return [process.communicate(timeout=patience) for process in processes]


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Returns once `condition` holds."""
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.05)


@contextlib.contextmanager
def two_hosts(folder: pathlib.Path, *names: str) -> Iterator[list[list[str]]]:
    """Two hosts, h0 and h1: network namespaces, joined by a cable. Skips if this user may not.

    Args:
      folder: for their /etc/hosts.
      names: the lines of /etc/hosts of h0, and of h1, besides localhost.

    Yields:
      For each host, the beginning of a command that runs there. Their addresses are 192.168.77.1
      and 192.168.77.2.
    """
    spaces = [f"ist{os.getpid()}h{i}" for i in range(2)]
    cable = ["link", "add", "cable", "netns", spaces[0], "type", "veth"]
    cable += ["peer", "name", "cable", "netns", spaces[1]]
    made = [["netns", "add", space] for space in spaces] + [cable]
    for i, space in enumerate(spaces):
        made += [["-n", space, "addr", "add", f"192.168.77.{i + 1}/24", "dev", "cable"]]
        made += [["-n", space, "link", "set", device, "up"] for device in ("cable", "lo")]
    try:
        if shutil.which("ip") is None or any(map(_fails, made)):
            pytest.skip("this user may not make network namespaces")
        yield [_on_host(folder, *pair, i) for i, pair in enumerate(zip(spaces, names, strict=True))]
    finally:
        for space in spaces if shutil.which("ip") else ():
            _fails(["netns", "del", space])


def _fails(arguments: Sequence[str]) -> int:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode


def _on_host(folder: pathlib.Path, space: str, names: str, number: int) -> list[str]:
    table = folder / f"hosts{number}"
    table.write_text(f"127.0.0.1 localhost\n{names}\n")
    enter = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
    inside = ["unshare", "--uts", "--mount", "sh", "-c", enter, str(table), f"h{number}"]
    return ["ip", "netns", "exec", space, *inside]
