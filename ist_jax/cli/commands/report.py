"""Tables and pictures from run records.

    ist-jax report DIR ... [--out DIR]   prints the table; writes table.md, table.csv and curves.png
    ist-jax report DIR ... --keep DIR    keeps the records of every run
    ist-jax report --page README.md      makes the tables and pictures of a page again

Every DIR is a workdir, or a folder of workdirs. Runs that differ in nothing but the seed are one
row: mean and standard deviation (n - 1) over seeds.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tyro

from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records import pages, tables


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """The flags of `ist-jax report`."""

    folders: tyro.conf.Positional[tuple[pathlib.Path, ...]] = ()
    """Workdirs, or folders of workdirs."""
    out: pathlib.Path | None = None
    """Where table and picture go; by default into DIR if it is one folder of workdirs."""
    keep: pathlib.Path | None = None
    """Where the records are kept."""
    page: pathlib.Path | None = None
    """A page whose tables and pictures are made again."""


def report(flags: ReportFlags) -> None:
    """Does what the flags ask for. Raises ConfigError: there is no finished run."""
    if flags.page:
        return pages.rebuild(flags.page)
    if not tables.find(flags.folders):
        where = ", ".join(map(str, flags.folders)) or "no folder"
        raise ConfigError(f"no finished run (summary.json) in {where}")
    if flags.keep:
        count = len(pages.keep(flags.folders, flags.keep))
        return print(f"{count} records kept in {flags.keep}")
    for workdir in tables.unfinished(flags.folders):
        print(f"left out, not finished: {workdir}", file=sys.stderr)
    is_folder = len(flags.folders) == 1 and not (flags.folders[0] / "config.json").exists()
    out = flags.out or (flags.folders[0] if is_folder else None)
    if out is None:
        return print(f"{tables.text(flags.folders)}\n--out DIR writes it there, with a picture")
    print(tables.write(flags.folders, out))
    print(f"picture: {out / 'curves.png'}")


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: report(parse(ReportFlags, argv, __doc__)))
