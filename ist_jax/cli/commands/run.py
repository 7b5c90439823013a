"""Trains one configuration: python -m ist_jax.cli.commands.run --config=FILE [--config.x=y ...] --workdir=DIR

FILE is a config file (.py, with get_config()) or the config.json of another run. Exit status 0: trained, or already
finished; 1: training diverged, or the workdir is in use, full or damaged; 2: the configuration or the data are wrong, or
memory has no room for them; 3: stopped by SIGINT or SIGTERM. While it trains it saves first, and the same command goes on
from there.

On several hosts, the same command on each, with --coordinator=HOST:PORT --num_processes=N --process_id=I; under SLURM,
Open MPI (before 5) and on Cloud TPU without them. --profile writes a trace of the training to DIR/profile, for TensorBoard or
Perfetto.
"""

if __name__ == "__main__":  # before imports that take seconds
    from ist_jax.cli.signals import end_at_once

    end_at_once()

import contextlib
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from ist_jax.analysis.machine import memory_bytes
from ist_jax.cli import autotune, builders, distributed
from ist_jax.cli.config import (
    FIELDS,
    Config,
    ConfigError,
    described,
    flatten,
    kind_of,
    nearest,
    resolve,
)
from ist_jax.cli.config_files import load_config, one_line
from ist_jax.cli.exit_status import SMALLER
from ist_jax.cli.records import curves, record
from ist_jax.cli.records.restored import start_from
from ist_jax.cli.records.results import read_workdir
from ist_jax.cli.signals import Signals
from ist_jax.cli.validation import num_workers, placement_of, validate
from ist_jax.core.partition import Partition
from ist_jax.core.processes import all_succeed, is_first
from ist_jax.training.checkpoint import committed_rounds
from ist_jax.training.loop import Phase, Results, phase_steps, run


class Command(NamedTuple):
    """A parsed command line."""

    config: Config
    workdir: pathlib.Path
    profile: bool = False


def _config_argument(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --config, and the other arguments."""
    rest, path = [], ""
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            path = next(arguments, "")
        elif argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    if not path:
        raise ConfigError("--config=FILE is missing; --help lists what can be set")
    return path, rest


def _last_wins(argv: Sequence[str]) -> list[str]:
    """One '--option=value' per option, the last: absl would append a second tuple to the first."""
    name = lambda argument: argument.split("=", 1)[0]
    last = {name(argument): number for number, argument in enumerate(argv)}
    return [
        argument
        for number, argument in enumerate(argv)
        if "=" not in argument or last[name(argument)] == number
    ]


def _check_names(argv: Sequence[str], known: Sequence[str]) -> None:
    for argument in argv:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name in ("flagfile", "undefok"):
            raise ConfigError(f"--{name} is no option: options are --config.x=y and --workdir=DIR")
        if (
            argument.startswith("-")
            and name.startswith("config.")
            and name.removeprefix("config.") not in known
        ):
            hint = nearest(name.removeprefix("config."), known) or " (--help lists the fields)"
            raise ConfigError(f"--{name} is no field{hint}")


def _in_our_words(error: Exception) -> str:
    """What absl says of a value of the wrong type, or of an option that is none."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"--{error.flagname} is no option; options are --config.x=y, --workdir=DIR and --profile"
    wrong = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if wrong is not None and wrong[1] in FIELDS:
        return f"{wrong[1]} is {kind_of(wrong[1])}, not {wrong[2]!r}"
    missing = re.match(r"Missing value for flag --([\w.]+)", str(error))
    return (
        f"--{missing[1]} has no value: write --{missing[1]}=VALUE" if missing else one_line(error)
    )


def parse(argv: Sequence[str]) -> Command:
    """The validated configuration and the workdir of a command line without the program's name.

    Raises:
      ConfigError: with one line on what is wrong.
    """
    path, rest = _config_argument(argv)
    config = load_config(path)
    rest = _last_wins(rest)
    _check_names(rest, list(flatten(config.to_dict())))
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["run", *rest])
    flags.DEFINE_string("workdir", "", "where the run's records go", flag_values=values)
    flags.DEFINE_bool("profile", False, "write a trace of the training", flag_values=values)
    try:
        others = values(["run", *rest])[1:]
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(_in_our_words(error)) from error
    if others:
        raise ConfigError(
            f"unexpected argument {others[0]!r}; options are --config.x=y and --workdir=DIR"
        )
    if not values.workdir:
        raise ConfigError("--workdir=DIR is missing: where the run's records go")
    overrides = config_flags.get_override_values(values["config"])
    return Command(
        validate(resolve(config, overrides)), pathlib.Path(values.workdir), values.profile
    )


def command(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Command:
    """A ConfigDict, edited from Python, and a workdir, as what `train` takes.

    Raises:
      ConfigError: with one line on what is wrong.
    """
    return Command(validate(resolve(config)), pathlib.Path(workdir))


def train(command: Command, signals: Signals | None = None) -> Results | None:
    """Runs a configuration and writes its records; None if the workdir holds it finished."""
    (config, workdir, profile), signals = command, signals or Signals()
    if record.is_finished(workdir, config):
        print(f"{workdir}: finished already", file=sys.stderr)
        with contextlib.suppress(OSError):  # a finished workdir may be for reading only
            _draw(workdir)
        return None
    prepared: list[Any] = []
    all_succeed(lambda: prepared.extend(_prepared(config, workdir)))
    config, dataset, phases, task, start, origin = prepared
    record.start(workdir, config, dataset, origin)
    if origin is not None and is_first():
        print(
            f"starts from {config.init_from} ({origin['method']}, round {origin['round']})",
            file=sys.stderr,
        )
    _say_rounding(config, dataset.num_train, phases)
    _say_padding(phases)
    _say_parts(config)
    _say_ways([phase.method.partition for phase in phases])
    traced = jax.profiler.trace(str(workdir / "profile")) if profile else contextlib.nullcontext()
    with signals.deferred(), traced:
        results = run(
            phases,
            task,
            dataset,
            builders.loop_config(config),
            workdir,
            start=start,
            stop=signals.received,
        )
    _draw(workdir)
    return results


def _prepared(config: Config, workdir: pathlib.Path) -> tuple[Any, ...]:
    """(config, dataset, phases, task, start or None, its origin or None) of a configuration, its placement settled."""
    if jax.process_count() > 1 and placement_of(config).mesh is None:
        raise ConfigError(
            f"{jax.process_count()} processes train over a mesh: their devices must divide the {num_workers(config)} workers "
            f"of {config.method} (num_subnets), and partition be balanced or blocks"
        )
    start, origin = None, None
    if config.init_from and not committed_rounds(
        workdir / "checkpoints"
    ):  # a run that goes on has its own
        start, origin = start_from(
            config.init_from
        )  # said before data are read, which may take minutes
    dataset = builders.dataset(config)
    dataset.shards(num_workers(config))  # whether every worker has examples
    phases, task = builders.phases(config, dataset.spec)
    _check_memory(phases)
    _check_drops(config, phases)
    if start is not None:
        phases[0].method.check(start)
    if (placed := autotune.resolve_placement(config, dataset, workdir)) is not config:
        config, (phases, task) = placed, builders.phases(placed, dataset.spec)
    return config, dataset, phases, task, start, origin


def _check_memory(phases: Sequence[Phase]) -> None:
    """What cannot be, before anything is written: a round holds the model and what its workers train of it."""
    held = lambda costs, workers: (
        costs.model_parameters + min(costs.model_parameters, workers * costs.device_parameters)
    )
    needed = (
        4 * max(held(p.method.costs, p.method.num_workers) for p in phases) / jax.process_count()
    )
    if needed > (there := memory_bytes()):
        raise ConfigError(
            f"a round holds at least {needed / 1e9:,.0f} GB of parameters, and the memory is {there / 1e9:,.0f} GB: {SMALLER}"
        )


def _check_drops(config: Config, phases: Sequence[Phase]) -> None:
    rounds = sum(-(-phase_steps(phase) // phase.local_steps) for phase in phases)
    if beyond := [round for round in config.drop.rounds if round > rounds]:
        raise ConfigError(
            f"drop.rounds={config.drop.rounds} names round {beyond[0]}, and the run has {rounds}"
        )


def _draw(workdir: pathlib.Path) -> None:
    """The picture of a finished run, also if the one before was killed while it drew."""
    if is_first() and not (workdir / "curves.png").exists():
        curves.draw([read_workdir(workdir)], workdir / "curves.png")


def _say_rounding(config: Config, num_train: int, phases: Sequence[Phase]) -> None:
    """Nothing is rounded silently."""
    planned = config.epochs * num_train
    actual = sum(phase_steps(p) * p.method.num_workers * p.method.batch_size for p in phases)
    if actual != planned and is_first():
        print(
            f"epochs={config.epochs:g} are {planned:,.1f} samples, rounded up to {actual:,} in whole steps",
            file=sys.stderr,
        )


def _say_padding(phases: Sequence[Phase]) -> None:
    """What S does not divide costs memory and FLOPs."""
    found = [phase.method.partition for phase in phases]
    for group, size, count, slots in sorted(
        {(g, p.sizes[g], p.num_subnets, p.slots[g]) for p in found for g in p.padded}
    ):
        if is_first():
            empty = f"{count * slots - size} of them empty, but stored and computed"
            print(f"{group}: {size} units in {count} x {slots} slots, {empty}", file=sys.stderr)


def _say_parts(config: Config) -> None:
    """A graph in more clusters than are evaluated at once is evaluated over parts."""
    clusters, at_once = config.data.clusters, config.eval_batch_size
    if clusters > at_once and is_first():
        parts = f"{-(-clusters // at_once)} parts of the graph, without the edges between them"
        print(
            f"evaluation is over {parts}: eval_batch_size={at_once} of data.clusters={clusters}",
            file=sys.stderr,
        )


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the program's name first."""
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        print(f"{__doc__}\nFields:\n{described()}")
        return 0
    return distributed.exit_status_of(argv[1:], _run)


def _run(arguments: Sequence[str]) -> None:
    with Signals() as signals:
        results = train(parse(arguments), signals)
    if results is not None and is_first():
        _print_summary(results.summary)


def _say_ways(found: Sequence[Partition]) -> None:
    """Which groups' units go from holder to holder, which come home: chosen by labels and sizes."""
    for parts in [parts for parts in found if parts.sizes and parts.num_subnets > 1][-1:]:
        travelling, home = (
            sorted(parts.holder_sharded),
            sorted(set(parts.sizes) - parts.holder_sharded),
        )
        if is_first():
            print(
                f"units that travel: {', '.join(travelling) or 'none'}; that come home: {', '.join(home) or 'none'}"
            )


def _print_summary(summary: dict[str, Any]) -> None:
    print(
        f"test accuracy {summary['test_accuracy']:.4f} (at best validation {summary['test_accuracy_at_best_validation']:.4f}), "
        f"{summary['samples_seen']:,} samples in {summary['seconds']:.1f} s of training, "
        f"{summary['bytes_per_device'] / 1e6:,.3g} MB sent per device"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
