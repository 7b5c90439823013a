"""The metric that selects the best evaluation of a run, as tables and pictures show it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ist_jax.cli.config import ConfigError
from ist_jax.cli.records.results import Run


class Metric(NamedTuple):
    """A metric, and how it is shown.

    Attributes:
      name: as in the task.
      best: "max" or "min".
      scale: factor of the recorded values.
      decimals: number of digits after the decimal point.
      unit: "%" or "".
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

    A metric to maximise whose values are all between 0 and 1 is a share, shown in per cent.

    Raises:
      ConfigError: different metrics select the evaluations of the runs.
    """
    selections = {tuple(sorted(run.summary["selection"].items())): run for run in runs}
    if len(selections) > 1:
        names = ", ".join(sorted({run.summary["selection"]["metric"] for run in runs}))
        raise ConfigError(
            f"runs of one table are selected by one metric, not by {names}: make a table of each"
        )
    (run,) = selections.values()
    name, best = run.summary["selection"]["metric"], run.summary["selection"]["best"]
    if best == "max" and all(0 <= value <= 1 for value in _values(runs, name)):
        return Metric(name, best, 100.0, 2, "%")
    return Metric(name, best, 1.0, 4, "")


def _values(runs: Sequence[Run], name: str) -> list[Any]:
    columns = [run.curve.get(f"test/{name}", []) for run in runs]
    return [value for column in columns for value in column if value is not None]
