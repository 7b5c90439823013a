"""Runs a config over a grid, one workdir each, and reports:

    python -m ist_jax.cli.commands.sweep --config=FILE --workdir=DIR --grid=method=ist,single --grid=seed=0,1 [--config.x=y]

Runs that are finished are not run again, so the same command goes on where it stopped. Exit status as of
ist_jax.cli.commands.run; a run that diverges does not stop the others.
"""

if __name__ == "__main__":  # before imports that take seconds
    from ist_jax.cli.signals import end_at_once

    end_at_once()

import itertools
import pathlib
import sys
from collections.abc import Sequence

from ist_jax.cli.commands import report, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import STOPPED, WRONG, exit_status
from ist_jax.cli.records import results


def grid(arguments: Sequence[str]) -> list[dict[str, str]]:
    """['a=1,2', 'b=3'] as [{'a': '1', 'b': '3'}, {'a': '2', 'b': '3'}]; commas in (1, 2) do not split."""
    axes = []
    for argument in arguments:
        name, separator, values = argument.partition("=")
        if not separator or not values:
            raise ConfigError(f"--grid={argument}: write --grid=FIELD=VALUE,VALUE")
        if any(axis[0][0] == name for axis in axes):
            raise ConfigError(
                f"--grid={argument}: {name} has values already: write all of them in one --grid"
            )
        parts, depth = [""], 0
        for character in values:
            depth += {"(": 1, ")": -1}.get(character, 0)
            if character == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += character
        axes.append([(name, value) for value in parts])
    return [dict(point) for point in itertools.product(*axes)]


def _overrides(point: dict[str, str]) -> list[str]:
    return [f"--config.{name}={value}" for name, value in point.items()]


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    chosen = [
        argument.removeprefix("--grid=") for argument in argv[1:] if argument.startswith("--grid=")
    ]
    rest = [argument for argument in argv[1:] if not argument.startswith(("--grid=", "--workdir="))]
    workdirs = [
        argument.removeprefix("--workdir=")
        for argument in argv[1:]
        if argument.startswith("--workdir=")
    ]
    try:
        if len(workdirs) != 1 or not workdirs[0]:
            raise ConfigError("--workdir=DIR is missing: the folder of the runs' workdirs")
        points = grid(chosen)
        for point in points:  # all before the first is trained
            run.parse([*rest, *_overrides(point), "--workdir=unused"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder, status = pathlib.Path(workdirs[0]), 0
    for point in points:
        workdir = folder / (",".join(f"{name}={value}" for name, value in point.items()) or "run")
        print(f"--- {workdir.name}", flush=True)
        one = run.main([argv[0], *rest, *_overrides(point), f"--workdir={workdir}"])
        if one in (WRONG, STOPPED):
            return one
        status = max(status, one)
    return max(status, exit_status(lambda: _report(folder)))


def _report(folder: pathlib.Path) -> None:
    for workdir in results.unfinished([folder]):
        print(f"left out, not finished: {workdir}", file=sys.stderr)
    if results.find([folder]):
        print("\n" + report.write([folder], folder))
        print(f"picture: {folder / 'curves.png'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
