"""The console command `ist-jax`: imports and runs one subcommand."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from ist_jax.cli.compilation_cache import keep_compiled_programs
from ist_jax.cli.signals import end_at_once

COMMANDS = {
    "run": "train one configuration",
    "sweep": "train a grid of configurations, and report",
    "report": "tables and pictures from records",
    "export": "export a trained model, or one of its subnetworks",
    "evaluate": "evaluate an exported model on a data set",
    "plan": "estimate what a round costs over a network link",
    "memory": "estimate a device's memory while a model trains",
    "benchmark": "time rounds, graph networks and convolutions on this machine",
    "launch-local": "start one run as several processes on this machine",
}


def dispatch(prog: str, commands: Mapping[str, str], package: str, argv: Sequence[str]) -> int:
    """Runs the command that `argv` names, and returns its exit status.

    Args:
      prog: the words of the command line before `argv`.
      commands: name -> help. Each is a module of `package` with a function main(argv).
      package: the package of the modules.
      argv: the name of a command, then its arguments.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="commands:\n" + "\n".join(f"  {n:13} {text}" for n, text in commands.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=commands, metavar="COMMAND", help="one of the above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its options")
    chosen = parser.parse_args(argv)
    module = importlib.import_module(f"{package}.{chosen.command.replace('-', '_')}")
    return module.main([chosen.command, *chosen.arguments])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of this process, and returns the exit status."""
    end_at_once()  # before imports that take seconds
    keep_compiled_programs()
    arguments = sys.argv[1:] if argv is None else argv
    return dispatch("ist-jax", COMMANDS, "ist_jax.cli.commands", arguments)
