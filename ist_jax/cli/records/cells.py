"""Cells of a table: the text for readers, and the numbers for a CSV file."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Cell(NamedTuple):
    """One value of a table.

    Attributes:
      text: for readers.
      mean: the number, unrounded; None where there is none.
      deviation: the sample standard deviation (n - 1) over seeds; None if there is only one.
    """

    text: str
    mean: float | None = None
    deviation: float | None = None


def words(text: str) -> Cell:
    """A cell without a number."""
    return Cell(text)


def spread(values: Sequence[float], scale: float = 1, decimals: int = 2) -> Cell:
    """A cell with mean and standard deviation over seeds, multiplied by `scale`."""
    if any(math.isnan(value) for value in values):
        return words("not evaluated")
    mean = scale * statistics.mean(values)
    if len(values) == 1:
        return Cell(f"{mean:.{decimals}f}", mean)
    deviation = scale * statistics.stdev(values)
    return Cell(f"{mean:.{decimals}f} ± {deviation:.{decimals}f}", mean, deviation)


def mean(values: Sequence[float], scale: float = 1, decimals: int = 0) -> Cell:
    """A cell with only the mean over seeds, multiplied by `scale`; thousands have commas."""
    value = scale * statistics.mean(values)
    return Cell(f"{value:,.{decimals}f}", value)
