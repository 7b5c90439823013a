"""The types of fields: bounds of numbers, and paths."""

from typing import Annotated, NamedTuple


class Range(NamedTuple):
    """Bounds of a number. The bounds are allowed themselves if `closed`."""

    low: float
    high: float
    closed: bool = True


class IsPath:
    """Marks text that is a path on this machine. A leading "~" stands for the home folder."""


PathText = Annotated[str, IsPath()]
Count = Annotated[int, Range(0, 2**30)]
Positive = Annotated[int, Range(1, 2**30)]
Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1e9, closed=False)]
