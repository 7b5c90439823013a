"""Tables and pictures from run records:

    python -m ist_jax.cli.commands.report DIR... [--out=DIR]     prints the table; writes table.md, table.csv and curves.png to --out,
                                                        by default into DIR if it is one folder of workdirs
    python -m ist_jax.cli.commands.report DIR... --keep=RECORDS  copies config.json, metrics.jsonl and summary.json of every run
    python -m ist_jax.cli.commands.report --page=README.md       makes a page's tables and pictures anew (experiments/pages.py)

Every DIR is a workdir, or a folder of workdirs. Runs that differ in nothing but the seed are one row: mean and
standard deviation (n - 1) over seeds.
"""

import pathlib
import sys
from collections.abc import Sequence

from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records import pages, tables


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="ist_jax.cli.commands.report",
        description=__doc__,
        formatter_class=RawText,
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="*", type=pathlib.Path, metavar="DIR")
    for option in ("--out", "--keep", "--page"):
        parser.add_argument(option, type=pathlib.Path)

    def act() -> None:
        given = parser.parse_args(argv[1:])
        if given.page:
            return pages.rebuild(given.page)
        if not tables.find(given.folders):
            raise ConfigError(
                f"no finished run (summary.json) in {', '.join(map(str, given.folders)) or 'no folder'}"
            )
        if given.keep:
            return print(
                f"{len(pages.keep(given.folders, given.keep))} records kept in {given.keep}"
            )
        for workdir in tables.unfinished(given.folders):
            print(f"left out, not finished: {workdir}", file=sys.stderr)
        alone = len(given.folders) == 1 and not (given.folders[0] / "config.json").exists()
        out = given.out or (given.folders[0] if alone else None)
        if out is None:
            return print(tables.text(given.folders) + "\n--out=DIR writes it there, with a picture")
        print(tables.write(given.folders, out))
        print(f"picture: {out / 'curves.png'}")

    return exit_status(act)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
