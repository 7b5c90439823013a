"""Trains one configuration.

    ist-jax run --config FILE --workdir DIR [--FIELD VALUE ...]

FILE is a config file (.py, with get_config()) or the config.json of another run. A run that is
stopped in training saves first. The same command resumes it.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ist_jax.analysis.machine import available_memory_bytes
from ist_jax.cli import autotune, builders, distributed
from ist_jax.cli.config import Config, ConfigError, checked
from ist_jax.cli.config.parsing import parse_with_config
from ist_jax.cli.exit_status import SMALLER, STATUSES
from ist_jax.cli.experiment import Experiment, resolve
from ist_jax.cli.methods import num_workers
from ist_jax.cli.records import curves, record
from ist_jax.cli.records.restored import start_from
from ist_jax.cli.records.results import read_workdir
from ist_jax.cli.signals import Signals
from ist_jax.cli.validation import placement_of, validate
from ist_jax.core.processes import all_succeed, is_first
from ist_jax.methods.base import Start
from ist_jax.training.checkpoint import committed_rounds
from ist_jax.training.loggers import Logger
from ist_jax.training.loop import Phase, Results, phase_steps, run
from ist_jax.training.trackers import check_trackers, trackers


@dataclasses.dataclass(frozen=True)
class RunFlags(distributed.TrainingFlags):
    """The flags of `ist-jax run`, besides the fields of the configuration."""

    profile: bool = False
    """Write a trace of the training to WORKDIR/profile, for TensorBoard or Perfetto."""


class Command(NamedTuple):
    """What a command line asks for.

    Attributes:
      config: its values have passed `config.checked`; `train` validates it.
      workdir: where records go.
      profile: whether a trace of the training is written.
      loggers: names of experiment trackers.
      project: the project under which they show the run.
    """

    config: Config
    workdir: pathlib.Path
    profile: bool = False
    loggers: tuple[str, ...] = ()
    project: str = "ist_jax"


def parse(argv: Sequence[str]) -> Command:
    """The command of the command line `argv`, the command's name first.

    Raises:
      ConfigError: an argument is wrong.
    """
    flags, config = parse_with_config(RunFlags, argv, f"{__doc__}{STATUSES}")
    if not flags.workdir:
        raise ConfigError("--workdir DIR is missing: the folder for the run's records")
    workdir = pathlib.Path(flags.workdir)
    return Command(config, workdir, flags.profile, flags.loggers, flags.project)


def train(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    profile: bool = False,
    loggers: Sequence[str] = (),
    project: str = "ist_jax",
    signals: Signals | None = None,
) -> Results | None:
    """Trains a configuration and writes its records. A run that was interrupted resumes.

    Args:
      config: of the run.
      workdir: folder of its records; made if it is missing.
      profile: whether to write a trace of the training to workdir/profile.
      loggers: names of experiment trackers, `training.trackers.TRACKERS`.
      project: the project under which they show the run.
      signals: entered by the caller. Signals that arrive in training are noted there.

    Returns:
      The results; None if the run in `workdir` is finished already.

    Raises:
      ConfigError: the configuration cannot run, or the workdir has another one.
      DataError: the data cannot be read.
      NonFiniteLossError: training diverged.
      Stopped: a signal arrived, and the run has saved its state.
      TrackerError: a logger is unknown, or does not start.
      WorkdirError: the workdir is in use, or cannot be written.
    """
    config, workdir = validate(checked(config)), pathlib.Path(workdir).expanduser()
    signals = signals or Signals()
    check_trackers(loggers)
    if record.is_finished(workdir, config):
        print(f"{workdir}: finished already", file=sys.stderr)
        with contextlib.suppress(OSError):  # a finished workdir may be read-only
            _draw(workdir)
        return None
    prepared: list[Any] = []
    all_succeed(lambda: prepared.extend(_prepare(config, workdir)))
    experiment, start, origin = prepared
    record.start(workdir, experiment, origin)
    made: list[Logger] = []
    shown = record.as_json(experiment.config)
    all_succeed(lambda: made.extend(trackers(loggers, project, workdir, shown)))
    if is_first():
        _say(experiment, origin)
    trace = jax.profiler.trace(str(workdir / "profile")) if profile else contextlib.nullcontext()
    with signals.deferred(), trace:
        results = run(
            experiment.phases,
            experiment.task,
            experiment.data,
            builders.loop_config(experiment.config),
            workdir,
            loggers=made,
            start=start,
            stop=signals.received,
        )
    _draw(workdir)
    return results


def _prepare(
    config: Config, workdir: pathlib.Path
) -> tuple[Experiment, Start | None, dict[str, Any] | None]:
    """The experiment with its placement, and the start that `init_from` names, with its origin."""
    if jax.process_count() > 1 and placement_of(config).mesh is None:
        raise ConfigError(
            f"{jax.process_count()} processes train over a mesh: their devices must divide the "
            f"{num_workers(config)} workers of {config.method} (num_subnets), and partition be "
            "balanced or blocks"
        )
    start, origin = None, None
    resumes = committed_rounds(workdir / "checkpoints")  # from its checkpoint, not from init_from
    if config.init_from and not resumes:
        start, origin = start_from(config.init_from)  # first: reading data may take minutes
    experiment = resolve(config)
    experiment.data.shards(experiment.num_workers)  # raises if a worker has no examples
    _check_memory(experiment.phases)
    _check_failures(experiment)
    _check_link(experiment)
    if start is not None:
        experiment.phases[0].method.check(start)
    return autotune.resolve_placement(experiment, workdir), start, origin


def _check_memory(phases: Sequence[Phase]) -> None:
    """Refuses a round whose model and workers' parts of it exceed the memory of this host."""

    def parameters(phase: Phase) -> int:
        costs, workers = phase.method.costs, phase.method.num_workers
        model = costs.model_parameters
        return model + min(model, workers * costs.device_parameters)

    needed = 4 * max(map(parameters, phases)) / jax.process_count()
    if needed > (available := available_memory_bytes()):
        raise ConfigError(
            f"a round holds at least {needed / 1e9:,.0f} GB of parameters, and the memory is "
            f"{available / 1e9:,.0f} GB: {SMALLER}"
        )


def _check_failures(experiment: Experiment) -> None:
    named = experiment.config.failures.rounds
    rounds = sum(-(-phase_steps(phase) // phase.local_steps) for phase in experiment.phases)
    if beyond := [round for round in named if round > rounds]:
        raise ConfigError(
            f"failures.rounds={named} names round {beyond[0]}, and the run has {rounds} rounds"
        )


def _check_link(experiment: Experiment) -> None:
    try:
        builders.loop_config(experiment.config).check_link(experiment.phases)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _draw(workdir: pathlib.Path) -> None:
    """Draws the picture of a finished run, unless an earlier process has drawn it."""
    if is_first() and not (workdir / "curves.png").exists():
        curves.draw([read_workdir(workdir)], workdir / "curves.png")


def _say(experiment: Experiment, origin: dict[str, Any] | None) -> None:
    """Prints what a user should know before training."""
    config = experiment.config
    lines = [*rounding(experiment), *padding(experiment.phases), *evaluated_parts(config)]
    if origin is not None:
        what = f"{origin['method']}, round {origin['round']}"
        lines.insert(0, f"starts from {config.init_from} ({what})")
    for line in lines:
        print(line, file=sys.stderr)
    for line in sharding(experiment.phases):
        print(line)


def rounding(experiment: Experiment) -> list[str]:
    """The message that samples are rounded up to full steps; [] if they are not."""
    epochs = experiment.config.epochs
    planned = epochs * experiment.spec.num_train
    actual = sum(
        phase_steps(p) * p.method.num_workers * p.method.batch_size for p in experiment.phases
    )
    if actual == planned:
        return []
    return [f"epochs={epochs:g} are {planned:,.1f} samples, rounded up to {actual:,} in full steps"]


def padding(phases: Sequence[Phase]) -> list[str]:
    """The messages about groups that S does not divide: their padding costs memory and FLOPs."""
    partitions = [phase.method.partition for phase in phases]
    padded = {
        (group, p.sizes[group], p.num_subnets, p.slots[group])
        for p in partitions
        for group in p.padded_groups
    }
    return [
        f"{group}: {size} units in {count} x {slots} slots; the {count * slots - size} empty slots "
        "are stored and computed, too"
        for group, size, count, slots in sorted(padded)
    ]


def evaluated_parts(config: Config) -> list[str]:
    """The message that a graph is evaluated in parts: it has more clusters than a batch."""
    clusters, at_once = config.data.clusters, config.eval_batch_size
    if clusters <= at_once:
        return []
    parts = f"{-(-clusters // at_once)} parts of the graph, without the edges between them"
    return [f"evaluation is over {parts}: eval_batch_size={at_once} of data.clusters={clusters}"]


def sharding(phases: Sequence[Phase]) -> list[str]:
    """The message about which groups are holder-sharded and which home-sharded."""
    partitions = [phase.method.partition for phase in phases]
    exchanging = [p for p in partitions if p.sizes and p.num_subnets > 1]
    if not exchanging:
        return []
    holder = exchanging[-1].holder_sharded
    home = set(exchanging[-1].sizes) - holder
    shown = lambda groups: ", ".join(sorted(groups)) or "none"
    return [f"holder-sharded groups: {shown(holder)}; home-sharded groups: {shown(home)}"]


def execute(command: Command) -> None:
    """Trains until the end or a signal, and prints the summary."""
    with Signals() as signals:
        results = train(
            command.config,
            command.workdir,
            profile=command.profile,
            loggers=command.loggers,
            project=command.project,
            signals=signals,
        )
    if results is not None and is_first():
        _print_summary(results.summary)


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return distributed.exit_status_of(RunFlags, argv, lambda: execute(parse(argv)))


def _print_summary(summary: dict[str, Any]) -> None:
    metric = summary["selection"]["metric"]
    last, selected = (summary[which]["test"][metric] for which in ("last", "selected"))
    evaluating = summary["evaluation_bytes_per_device"]
    more = f", and {evaluating / 1e6:,.3g} MB to evaluate" if evaluating else ""
    print(
        f"test {metric} {last:.4f} (at best validation {selected:.4f}), "
        f"{summary['samples_seen']:,} samples in {summary['seconds']:.1f} s of training, "
        f"{summary['bytes_per_device'] / 1e6:,.3g} MB sent per device{more}"
    )
