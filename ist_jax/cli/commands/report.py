"""Makes tables and pictures of finished runs.

    ist-jax report DIR ... [--out DIR]   prints the table; writes table.md, table.csv and curves.png
    ist-jax report DIR ... --keep TABLE.jsonl [--command "ist-jax sweep ..."]   adds to a kept table
    ist-jax report --page README.md      makes the tables and pictures of a page again

Every DIR is a workdir or a folder of workdirs. Runs that differ only in the seed are one row: mean
and standard deviation (n - 1) over seeds.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tyro

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records import curves, pages, results, tables
from ist_jax.training.files import write_whole


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """The flags of `ist-jax report`."""

    folders: tyro.conf.Positional[tuple[pathlib.Path, ...]] = ()
    """Workdirs, or folders of workdirs."""
    out: pathlib.Path | None = None
    """Folder for table and picture; by default, DIR if it is one folder of workdirs."""
    keep: pathlib.Path | None = None
    """A kept table to which the runs are added."""
    command: str = ""
    """The command that made the runs. A new kept table needs it."""
    page: pathlib.Path | None = None
    """A page whose tables and pictures are made again."""


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> str:
    """Writes the table and the picture of the finished runs to `out`; returns the markdown."""
    runs = [results.read_workdir(workdir) for workdir in results.find(folders)]
    table = tables.table(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "table.md", table.markdown())
    write_whole(out / "table.csv", table.csv())
    curves.draw(runs, out / "curves.png")
    return table.markdown()


def report(folders: Sequence[pathlib.Path], out: pathlib.Path | None = None) -> None:
    """Prints the table of the finished runs. Writes it and a picture to `out`.

    If `out` is None and `folders` is one folder of workdirs, they are written there.

    Raises:
      ConfigError: no run in `folders` is finished, or a record is damaged.
    """
    _check_finished(folders)
    for workdir in results.unfinished(folders):
        print(f"left out, not finished: {workdir}", file=sys.stderr)
    is_one_folder = len(folders) == 1 and not (folders[0] / "config.json").exists()
    out = out or (folders[0] if is_one_folder else None)
    if out is None:
        runs = [results.read_workdir(workdir) for workdir in results.find(folders)]
        print(f"{tables.table(runs).markdown()}\n--out DIR writes the table and a picture to DIR")
        return
    print(write(folders, out))
    print(f"picture: {out / 'curves.png'}")


def _check_finished(folders: Sequence[pathlib.Path]) -> None:
    if not folders:
        raise ConfigError("give at least one folder: the workdir of a run or of a sweep")
    if not results.find(folders):
        places, begun = ", ".join(map(str, folders)), len(results.unfinished(folders))
        more = f"; {begun} unfinished: the same command resumes them" if begun else ""
        raise ConfigError(f"no finished run (summary.json) in {places}{more}")


def keep(folders: Sequence[pathlib.Path], file: pathlib.Path, command: str = "") -> None:
    """Adds the finished runs to the kept table `file` (see `results.keep`)."""
    _check_finished(folders)
    print(f"{results.keep(folders, file, command)} runs added to {file}")


def _act(flags: ReportFlags) -> None:
    if flags.page:
        pages.rebuild(flags.page)
    elif flags.keep:
        keep(flags.folders, flags.keep, flags.command)
    else:
        report(flags.folders, flags.out)


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _act(parse(ReportFlags, argv, __doc__)))
