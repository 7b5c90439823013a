"""Tables of runs: as markdown for readers, as CSV for programs."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from ist_jax.cli.records import columns, reached
from ist_jax.cli.records.cells import Cell
from ist_jax.cli.records.labels import grouped
from ist_jax.cli.records.metric import metric_of
from ist_jax.cli.records.reached import Target
from ist_jax.cli.records.results import Run


class Table(NamedTuple):
    """A table of runs.

    Attributes:
      titles: of the columns, except the column of labels.
      rows: label -> a cell per column.
    """

    titles: list[str]
    rows: dict[str, list[Cell]]

    def markdown(self) -> str:
        """The table as markdown. The first column has the labels."""
        cells = [[label, *(cell.text for cell in row)] for label, row in self.rows.items()]
        return markdown(["method", *self.titles], cells)

    def csv(self) -> str:
        """The unrounded numbers as CSV. Deviations over seeds are in a column after the means."""
        header, *rows = ["method"], *([label] for label in self.rows)
        for position, title in enumerate(self.titles):
            cells = [row[position] for row in self.rows.values()]
            varies = any(cell.deviation is not None for cell in cells)
            header += [title, f"{title}, deviation"] if varies else [title]
            for row, cell in zip(rows, cells):
                row += [_number(cell.mean), *([_number(cell.deviation)] if varies else [])]
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def table(runs: Sequence[Run], targets: Sequence[Target] = (), named: Sequence[str] = ()) -> Table:
    """The table of `runs`, with a row for every group of runs that differ only in the seed.

    Args:
      runs: at least one.
      targets: each adds two columns: the spending to reach it, and how many times IST's that is.
      named: titles in `columns.IF_NAMED`.

    Raises:
      ConfigError: different metrics select the evaluations of the runs, or a run did not measure
        what a target needs.
    """
    groups = grouped(runs)
    made = [
        *columns.standard_columns(groups, metric_of(runs)),
        *columns.optional_columns(runs),
        *reached.columns(groups, targets),
        *columns.named_columns(named),
    ]
    rows = {label: [column.cell(group) for column in made] for label, group in groups.items()}
    return Table([column.title for column in made], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table. All columns except the first are right-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
