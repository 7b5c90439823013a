"""Programs that tests start, and which none of them outlives."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence

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
