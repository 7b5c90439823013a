"""Trains a grid of configurations, one workdir each, and makes a table and a picture of them.

    ist-jax sweep --config FILE --workdir DIR --grid method=ist,single --grid seed=0,1

Every --grid names a field and its values. A value of several integers has spaces:
--grid "model.hidden=64 64,128 128". Finished runs are not repeated, so the same command resumes a
sweep. A run that diverges does not stop the others.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence

import tyro

from ist_jax.cli import distributed
from ist_jax.cli.commands import report, run
from ist_jax.cli.config import FIELDS, Config, ConfigError
from ist_jax.cli.config.parsing import parse_with_config
from ist_jax.cli.exit_status import STATUSES, STOPPED, WRONG, exit_status
from ist_jax.cli.records import results
from ist_jax.cli.validation import validate

Point = dict[str, str]  # field -> value, as the command line has it


@dataclasses.dataclass(frozen=True)
class SweepFlags(distributed.TrainingFlags):
    """The flags of `ist-jax sweep`, besides the fields of the configuration."""

    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE: values of a field. Every combination of values is a run."""


def grid(arguments: Sequence[str]) -> list[Point]:
    """['a=1,2', 'b=3'] as [{'a': '1', 'b': '3'}, {'a': '2', 'b': '3'}]. Raises ConfigError."""
    axes: dict[str, list[str]] = {}
    for argument in arguments:
        name, _, values = argument.partition("=")
        if not values:
            raise ConfigError(f"--grid {argument}: write --grid FIELD=VALUE,VALUE")
        if name in axes:
            raise ConfigError(
                f"--grid {argument}: {name} has a --grid already: write all values in that one"
            )
        axes[name] = values.split(",")
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def _words(name: str, value: str) -> list[str]:
    """The words of a field's value: those between spaces if the field takes several integers."""
    field = FIELDS.get(name.replace("-", "_"))
    return value.split() if field is not None and field.kind is tuple else [value]


def name_of(point: Point) -> str:
    """The name of a run's workdir: 'model.hidden=64x64,seed=0'."""
    named = [f"{name}={'x'.join(_words(name, value))}" for name, value in point.items()]
    return ",".join(named) or "run"


def configuration(
    argv: Sequence[str], point: Mapping[str, str] | None = None
) -> tuple[SweepFlags, Config]:
    """The flags of the command line, and its configuration at a point of the grid.

    Without a point, the configuration is that of the command line. Raises ConfigError.
    """
    chosen = (point or {}).items()
    words = [word for name, value in chosen for word in (f"--{name}", *_words(name, value))]
    return parse_with_config(SweepFlags, [*argv, *words], f"{__doc__}{STATUSES}")


def _planned(argv: Sequence[str]) -> list[tuple[Point, pathlib.Path]]:
    """The points of the grid, and their workdirs. Raises ConfigError if one cannot run."""
    flags, _ = configuration(argv)
    if not flags.workdir:
        raise ConfigError("--workdir DIR is missing: the folder of the runs' workdirs")
    points = grid(flags.grid)
    for point in points:
        validate(configuration(argv, point)[1])
    return [(point, pathlib.Path(flags.workdir, name_of(point))) for point in points]


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    planned: list[tuple[Point, pathlib.Path]] = []
    status = distributed.exit_status_of(SweepFlags, argv, lambda: planned.extend(_planned(argv)))
    for point, workdir in planned:
        print(f"--- {workdir.name}", flush=True)
        status = max(status, one := _run(argv, point, workdir))
        if one in (WRONG, STOPPED):
            return one
    if not planned:
        return status
    return max(status, exit_status(lambda: _report(planned[0][1].parent)))


def _run(argv: Sequence[str], point: Point, workdir: pathlib.Path) -> int:
    def action() -> None:
        flags, config = configuration(argv, point)
        command = run.Command(config, workdir, loggers=flags.loggers, project=flags.project)
        run.execute(command)

    return distributed.exit_status_of(SweepFlags, [*argv, "--workdir", str(workdir)], action)


def _report(folder: pathlib.Path) -> None:
    for workdir in results.unfinished([folder]):
        print(f"left out, not finished: {workdir}", file=sys.stderr)
    if results.find([folder]):
        print("\n" + report.write([folder], folder))
        print(f"picture: {folder / 'curves.png'}")
