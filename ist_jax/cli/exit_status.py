"""The exit status of a command, and the line it prints about an error."""

import sys
from collections.abc import Callable

from jax.errors import JaxRuntimeError

from ist_jax.cli.config import ConfigError
from ist_jax.cli.signals import STOPPED
from ist_jax.core.errors import first_line
from ist_jax.core.processes import OtherProcessError
from ist_jax.data import DataError
from ist_jax.methods.base import StartError
from ist_jax.training.divergence import NonFiniteLossError
from ist_jax.training.loop import Stopped
from ist_jax.training.trackers import TrackerError
from ist_jax.training.workdir import WorkdirError

FAILED, WRONG = 1, 2
STATUSES = """
Exit status 0: done; 1: training diverged, or the workdir is in use, full or damaged; 2: the
configuration or the data are wrong, or do not fit into memory; 3: stopped by SIGINT or SIGTERM.
"""
SMALLER = "use a smaller model or batch_size, or more devices (see ist-jax memory)"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def exit_status(action: Callable[[], object]) -> int:
    """Runs `action` and returns its exit status. An error is printed as one line."""
    try:
        action()
    except SystemExit as end:  # --help
        return int(end.code or 0)
    except (ConfigError, DataError, StartError, TrackerError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return WRONG
    except (JaxRuntimeError, MemoryError) as error:
        if isinstance(error, JaxRuntimeError) and not is_out_of_memory(error):
            raise
        why = f"this does not fit into memory: {SMALLER}"
        print(f"error: {first_line(error)}: {why}", file=sys.stderr)
        return WRONG
    except (NonFiniteLossError, WorkdirError, OtherProcessError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return FAILED
    except (Stopped, KeyboardInterrupt) as error:
        print(first_line(error), file=sys.stderr)
        return STOPPED
    return 0
