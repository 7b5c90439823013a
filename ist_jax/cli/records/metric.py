"""The metric that selects the best evaluation of a run, as tables and pictures show it."""

from collections.abc import Sequence
from typing import NamedTuple

from ist_jax.cli.config import ConfigError
from ist_jax.cli.records.results import Run
from ist_jax.core.task import SHARE


class Metric(NamedTuple):
    """A metric, and how it is shown.

    Attributes:
      name: as in the task.
      best: "max" or "min".
      scale: factor of the recorded values.
      decimals: number of digits after the decimal point.
      unit: "%" for a share, another unit, or "".
    """

    name: str
    best: str
    scale: float
    decimals: int
    unit: str

    def title(self, what: str) -> str:
        """`what`, with the unit."""
        return f"{what} ({self.unit})" if self.unit else what

    def reaches(self, value: float | None, target: float) -> bool:
        """Whether a recorded value is as good as `target`, which is in the unit shown."""
        if value is None:
            return False
        shown = self.scale * value
        return shown >= target if self.best == "max" else shown <= target


def metric_of(runs: Sequence[Run]) -> Metric:
    """The metric that selects the best evaluation of all `runs`.

    A share, from 0 to 1, is shown in per cent.

    Raises:
      ConfigError: different metrics select the evaluations of the runs, or their units differ.
    """
    selections = {(run.selection, run.unit) for run in runs}
    if len(selections) > 1:
        names = ", ".join(sorted({run.selection.metric for run in runs}))
        raise ConfigError(
            "runs of one table are selected by one metric in one direction and unit, not by "
            f"{names}: make a table of each"
        )
    (((name, best), unit),) = selections
    if unit == SHARE:
        return Metric(name, best, 100.0, 2, "%")
    return Metric(name, best, 1.0, 4, unit)
