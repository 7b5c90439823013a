"""What runs spent until they first reached a target, and how many times IST's spending that is."""

import functools
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ist_jax.cli.config import ConfigError
from ist_jax.cli.records.cells import Cell, spread, words
from ist_jax.cli.records.columns import Column
from ist_jax.cli.records.labels import method_of, workers_of
from ist_jax.cli.records.metric import Metric
from ist_jax.cli.records.results import Run

SPENDINGS = {  # name -> (column of the curve, scale)
    "simulated s": ("simulated_seconds", 1),
    "training s": ("seconds", 1),
    "MB": ("bytes_per_device", 1e-6),
}
_TITLE = re.compile(rf"(?:times ist's )?({'|'.join(SPENDINGS)}) to ([\d.]+)(?: .+)?")


class Target(NamedTuple):
    """A value of the test metric to reach, and the spending to count up to it.

    Attributes:
      spending: a name of `SPENDINGS`.
      value: in the unit of the metric: per cent if it is a share.
      metric: the metric that is to reach it.
    """

    spending: str
    value: float
    metric: Metric

    @property
    def title(self) -> str:
        """The title of the column of spendings, such as "MB to 85 %"."""
        return f"{self.spending} to {self.value:g} {self.metric.unit}".rstrip()


def targets_of(titles: Sequence[str], metric: Metric) -> list[Target]:
    """The targets that column titles such as "MB to 85 %" and "times ist's MB to 85 %" name."""
    matches = [match for match in map(_TITLE.fullmatch, titles) if match]
    return list(dict.fromkeys(Target(match[1], float(match[2]), metric) for match in matches))


def columns(groups: Mapping[str, Sequence[Run]], targets: Sequence[Target]) -> list[Column]:
    """Two columns for every target: the spending, and how many times IST's spending it is."""
    made: list[Column] = []
    for target in targets:
        of_ist = functools.partial(times_ist, target=target, groups=groups)
        made.append(Column(target.title, functools.partial(reached, target=target)))
        made.append(Column(f"times ist's {target.title}", of_ist))
    return made


def spent(runs: Sequence[Run], target: Target) -> list[float | None]:
    """The spending of every run until it first reaches the target; None if it does not.

    Raises:
      ConfigError: a run has no such column.
    """
    column, scale = SPENDINGS[target.spending]
    metric = target.metric
    if any(None in run.curve.get(column, [None]) for run in runs):
        raise ConfigError(f"{target.title!r} needs {column} in every run, and one has none")
    spendings: list[float | None] = []
    for run in runs:
        pairs = zip(run.curve[f"test/{metric.name}"], run.curve[column])
        reaching = (value for shown, value in pairs if metric.reaches(shown, target.value))
        first = next(reaching, None)
        spendings.append(None if first is None else scale * first)
    return spendings


def _spent_if_reached(runs: Sequence[Run], target: Target) -> list[float]:
    """`spent` of the runs that reach the target."""
    return [value for value in spent(runs, target) if value is not None]


def reached(runs: Sequence[Run], target: Target) -> Cell:
    """A cell with mean and deviation of `spent`, or with how many runs reach the target."""
    values = _spent_if_reached(runs, target)
    if len(values) < len(runs):
        return words(f"{len(values)} of {len(runs)} reach it")
    return spread(values)


def times_ist(runs: Sequence[Run], target: Target, groups: Mapping[str, Sequence[Run]]) -> Cell:
    """The mean of `spent` over IST's; empty for IST, and if a run does not reach the target."""
    ist_runs = _comparable_ist(runs, groups)
    if ist_runs is runs or not ist_runs:
        return words("")
    ours, theirs = _spent_if_reached(ist_runs, target), _spent_if_reached(runs, target)
    if len(ours) < len(ist_runs) or len(theirs) < len(runs):
        return words("")
    times = statistics.mean(theirs) / statistics.mean(ours)
    return Cell(f"{times:.1f}", times)


def _comparable_ist(runs: Sequence[Run], groups: Mapping[str, Sequence[Run]]) -> Sequence[Run]:
    """The group of IST's runs to compare `runs` with; [] if there is none.

    It is the one with the same values, or else the only one with equally many workers.
    """
    label = next(label for label, group in groups.items() if group is runs)
    same_values = groups.get(", ".join(["ist", *label.split(", ")[1:]]))
    as_many = [
        group
        for group in groups.values()
        if method_of(group) == "ist" and workers_of(group) == workers_of(runs)
    ]
    return same_values or (as_many[0] if len(as_many) == 1 else [])
