"""Cells of a table: what a reader sees, and the numbers that a CSV file holds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Cell(NamedTuple):
    """One value of a table.

    Attributes:
      text: for readers.
      mean: the number, unrounded; None where there is none.
      deviation: the sample standard deviation (n - 1) over seeds; None where it is not shown.
    """

    text: str
    mean: float | None = None
    deviation: float | None = None


def words(text: str) -> Cell:
    """A cell without a number."""
    return Cell(text)


def spread(values: Sequence[float], scale: float = 1, decimals: int = 2) -> Cell:
    """Mean and deviation over seeds."""
    if any(math.isnan(value) for value in values):
        return words("not evaluated")
    mean = scale * statistics.mean(values)
    if len(values) == 1:
        return Cell(f"{mean:.{decimals}f}", mean)
    deviation = scale * statistics.stdev(values)
    return Cell(f"{mean:.{decimals}f} ± {deviation:.{decimals}f}", mean, deviation)


def mean(values: Sequence[float], scale: float = 1, decimals: int = 0) -> Cell:
    """The mean over seeds alone, with commas between thousands."""
    value = scale * statistics.mean(values)
    return Cell(f"{value:,.{decimals}f}", value)
