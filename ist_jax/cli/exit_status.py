"""How a command ends: its exit status, and one line on what was wrong."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from jax.errors import JaxRuntimeError

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config_files import one_line
from ist_jax.cli.signals import STOPPED
from ist_jax.core.processes import OtherProcessError
from ist_jax.data import DataError
from ist_jax.methods.base import StartError
from ist_jax.training.divergence import NonFiniteLossError
from ist_jax.training.loop import Stopped
from ist_jax.training.workdir import WorkdirError

RawText = argparse.RawDescriptionHelpFormatter
FAILED, WRONG = 1, 2
SMALLER = "use a smaller model or batch_size, or more devices (ist_jax.cli.commands.memory counts)"


def is_out_of_memory(error: JaxRuntimeError) -> bool:
    """Whether a device's memory, or this machine's, has no room for what a run needs."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def exit_status(action: Callable[[], object]) -> int:
    """Runs `action`; 0, or what its error stands for, which is printed as one line."""
    try:
        action()
    except (ConfigError, DataError, StartError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return WRONG
    except (JaxRuntimeError, MemoryError) as error:
        if isinstance(error, JaxRuntimeError) and not is_out_of_memory(error):
            raise
        print(
            f"error: {one_line(error)}: this does not fit into memory: {SMALLER}", file=sys.stderr
        )
        return WRONG
    except (NonFiniteLossError, WorkdirError, OtherProcessError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return FAILED
    except (Stopped, KeyboardInterrupt) as error:
        print(one_line(error), file=sys.stderr)
        return STOPPED
    return 0


class Parser(argparse.ArgumentParser):
    """Like argparse's, but what is wrong is a ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
