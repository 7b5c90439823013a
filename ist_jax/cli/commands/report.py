"""Tables and pictures of finished runs:

    ist-jax report DIR... [--out DIR]
        prints the table; writes table.md, table.csv, curves.png and curves.svg to --out,
        by default to DIR if it is one folder of workdirs
    ist-jax report DIR... --keep TABLE.jsonl [--command "ist-jax sweep ..."]
        adds the runs to a kept table; a new table needs the command that made them
    ist-jax report --page README.md
        makes the tables and pictures of a page anew

Every DIR is a workdir, or a folder of workdirs. Runs that differ in nothing but the seed are one
row: mean and standard deviation (n - 1) over seeds.
"""

import pathlib
import sys
from collections.abc import Sequence

from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records import curves, pages, results, tables
from ist_jax.training.files import write_whole


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
    """Prints the table of the finished runs, and writes it to `out`, with a picture.

    Without `out`, it is written to `folders` if that is one folder of workdirs.

    Raises:
      ConfigError: no run in `folders` is finished, or a record is damaged.
    """
    _check_finished(folders)
    for workdir in results.unfinished(folders):
        print(f"left out, not finished: {workdir}", file=sys.stderr)
    alone = len(folders) == 1 and not (folders[0] / "config.json").exists()
    out = out or (folders[0] if alone else None)
    if out is None:
        runs = [results.read_workdir(workdir) for workdir in results.find(folders)]
        print(f"{tables.table(runs).markdown()}\n--out DIR writes it there, with a picture")
        return
    print(write(folders, out))
    print(f"picture: {out / 'curves.png'}")


def _check_finished(folders: Sequence[pathlib.Path]) -> None:
    if not results.find(folders):
        places = ", ".join(map(str, folders)) or "no folder"
        raise ConfigError(f"no finished run (summary.json) in {places}")


def keep(folders: Sequence[pathlib.Path], file: pathlib.Path, command: str = "") -> None:
    """Adds the finished runs to the kept table `file`; see `results.keep`."""
    _check_finished(folders)
    print(f"{results.keep(folders, file, command)} runs added to {file}")


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="ist-jax report", description=__doc__, formatter_class=RawText, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="*", type=pathlib.Path, metavar="DIR")
    for option in ("--out", "--keep", "--page"):
        parser.add_argument(option, type=pathlib.Path)
    parser.add_argument("--command", default="")

    def act() -> None:
        given = parser.parse_args(argv[1:])
        if given.page:
            pages.rebuild(given.page)
        elif given.keep:
            keep(given.folders, given.keep, given.command)
        else:
            report(given.folders, given.out)

    return exit_status(act)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
