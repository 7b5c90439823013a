"""Pages whose tables and pictures are made from kept tables.

HTML comments, which readers do not see, say what goes where. Paths are relative to the page.

    <!-- table results/fm -->                       all columns of results/fm.jsonl
    <!-- table results/fm | seeds | training -->    columns, by the beginnings of their titles
    <!-- table results/slow | MB to 85 % -->        what a run spent until it reached a test metric
                                                    (`reached.SPENDINGS`); "times ist's MB to 85 %"
    <!-- table results/wide | MB per sync -->       a column that is shown only if it is named
    <!-- benchmark results/benchmark.json -->       the rows of a benchmark, and its machine
    <!-- rows results/memory.json -->               rows and a note that a command wrote as JSON
    <!-- end -->                                    ends each of these
    <!-- picture results/fm figures/fm.png -->
    <!-- picture results/fm figures/fm.png without seconds -->    if runs were not timed alike

The values of a paper in a kept table are the column "paper", in the unit of the metric.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ist_jax.cli.benchmarks import rounds
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import columns, curves, reached, results, tables
from ist_jax.cli.records.cells import Cell, words
from ist_jax.cli.records.metric import Metric, metric_of
from ist_jax.cli.records.tables import Table
from ist_jax.training.files import write_whole

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<kind>table|benchmark|rows) (?P<source>[^\s|]+)(?P<titles>[^>]*?) -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
_BEGIN = re.compile(r"<!-- (?:table|benchmark|rows) ")
_PICTURE = re.compile(r"<!-- picture (?P<source>\S+) (?P<picture>\S+)(?P<without>[^>]*?) -->")


class Picture(NamedTuple):
    """A picture of a page.

    Attributes:
      source: the kept table that it is drawn from.
      file: the PNG.
      with_seconds: whether it has a panel of seconds.
    """

    source: pathlib.Path
    file: pathlib.Path
    with_seconds: bool


def rebuilt(page: pathlib.Path) -> str:
    """The text of `page` with every table made again.

    Raises:
      ConfigError: a table has no end or no results, or names a column that does not exist.
    """
    text = page.read_text()
    blocks = len(_BLOCK.findall(text))
    if not len(_BEGIN.findall(text)) == blocks == text.count("<!-- end -->"):
        raise ConfigError(f"{page}: every '<!-- table ... -->' needs one '<!-- end -->' after it")
    return _BLOCK.sub(lambda match: _block(page.parent, match), text)


def _block(folder: pathlib.Path, match: re.Match[str]) -> str:
    make = {"table": _table, "benchmark": _benchmark, "rows": _rows}[match["kind"]]
    titles = [title.strip() for title in match["titles"].split("|") if title.strip()]
    return f"{match['begin']}{make(folder / match['source'], titles)}{match['end']}"


def _benchmark(file: pathlib.Path, _: Sequence[str]) -> str:
    content = json.loads(file.read_text())
    return f"{rounds.markdown(content['rows'])}\n{rounds.described(content['machine'])}\n"


def _rows(file: pathlib.Path, _: Sequence[str]) -> str:
    content = json.loads(file.read_text())
    table = tables.markdown(content["header"], content["rows"])
    return f"{table}\n{content['note'].strip()}\n"


def _table(name: pathlib.Path, titles: Sequence[str]) -> str:
    """The columns of a kept table whose titles begin with `titles`; without titles, all columns."""
    kept = results.read(_file(name))
    metric = metric_of(kept.runs)
    targets = reached.targets_of(titles, metric)
    named = [title for title in columns.IF_NAMED if title.startswith(tuple(titles))]
    table = tables.table(kept.runs, targets, named)
    if kept.paper:
        table = _with_paper(name, table, kept.paper, metric)
    return _chosen(table, titles).markdown()


def _file(name: pathlib.Path) -> pathlib.Path:
    return name.with_name(f"{name.name}.jsonl")


def _with_paper(
    name: pathlib.Path, table: Table, paper: Mapping[str, float], metric: Metric
) -> Table:
    """The table with a column of the paper's values, empty in rows that the paper does not have."""
    if unknown := sorted(set(paper) - set(table.rows)):
        labels = ", ".join(table.rows)
        raise ConfigError(f"{name}: the paper's values are for rows {labels}, not {unknown[0]!r}")
    rows = {label: [*row, _of_paper(paper.get(label), metric)] for label, row in table.rows.items()}
    return Table([*table.titles, metric.title("paper")], rows)


def _of_paper(value: float | None, metric: Metric) -> Cell:
    return words("") if value is None else Cell(f"{value:.{metric.decimals}f}", value)


def _chosen(table: Table, titles: Sequence[str]) -> Table:
    """The columns whose titles begin with `titles`. Raises ConfigError if one fits not just one."""
    if not titles:
        return table
    positions: list[int] = []
    for wanted in titles:
        matches = [i for i, title in enumerate(table.titles) if title.startswith(wanted)]
        if len(matches) != 1:
            known = ", ".join(table.titles)
            raise ConfigError(
                f"{wanted!r} begins the title of one column, not of {len(matches)} of {known}"
            )
        positions += matches
    rows = {label: [row[i] for i in positions] for label, row in table.rows.items()}
    return Table([table.titles[i] for i in positions], rows)


def pictures(page: pathlib.Path) -> Iterator[Picture]:
    """The pictures of `page`."""
    for match in _PICTURE.finditer(page.read_text()):
        source, file = _file(page.parent / match["source"]), page.parent / match["picture"]
        yield Picture(source, file, "without seconds" not in match["without"])


def drawn_from(picture: pathlib.Path) -> str:
    """The fingerprint of the runs from which a picture was drawn (`curves.fingerprint`)."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get("Description", "")


def rebuild(page: pathlib.Path) -> None:
    """Makes the tables and pictures of `page` again, and writes them.

    Raises:
      ConfigError: there is no page, there are no results, or a column does not exist.
    """
    if not page.is_file():
        raise ConfigError(f"--page {page}: there is no such file")
    write_whole(page, rebuilt(page))
    for picture in pictures(page):
        picture.file.parent.mkdir(parents=True, exist_ok=True)
        runs = results.read(picture.source).runs
        curves.draw(runs, picture.file, with_seconds=picture.with_seconds)
