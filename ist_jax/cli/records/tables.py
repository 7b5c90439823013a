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
      titles: of the columns, without that of the labels.
      rows: label -> a cell per column.
    """

    titles: list[str]
    rows: dict[str, list[Cell]]

    def markdown(self) -> str:
        """The table for readers; the first column is the label."""
        cells = [[label, *(cell.text for cell in row)] for label, row in self.rows.items()]
        return markdown(["method", *self.titles], cells)

    def csv(self) -> str:
        """The numbers, unrounded; means over seeds have their deviations in the next column."""
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
    """The table of `runs`, a row for every group that differs in the seed alone.

    Args:
      runs: at least one.
      targets: two columns each: the spending to reach it, and how many times IST's that is.
      named: titles of `columns.IF_NAMED`.

    Raises:
      ConfigError: runs are selected by different metrics, or a target needs what a run did not
        measure.
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
    """A table of texts; every column but the first is right-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
