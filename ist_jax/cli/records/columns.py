"""The columns of a table of runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ist_jax.cli.config import from_values
from ist_jax.cli.methods import num_workers
from ist_jax.cli.records.cells import Cell, mean, spread, words
from ist_jax.cli.records.metric import Metric
from ist_jax.cli.records.results import Run

Group = Sequence[Run]

# Columns that are shown only if a page names them: title -> (summary field, its part, decimals).
IF_NAMED: dict[str, tuple[str, str | None, int]] = {
    "evaluation: MB sent per device": ("evaluation_bytes_per_device", None, 2),
    "MB per synchronisation": ("bytes_per_sync_per_device", "arithmetic", 3),
    "memory of a device between rounds (MB)": ("memory_bytes_per_device", "state", 1),
    "memory of a device at most (MB)": ("memory_bytes_per_device", "peak", 1),
}


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      title: with the unit.
      cell: a group of runs that differ only in the seed -> its cell.
    """

    title: str
    cell: Callable[[Group], Cell]


def _of_summary(*path: str) -> Callable[[Group], list[Any]]:
    """A function that reads a nested field in the summary of every run of a group."""

    def values(group: Group) -> list[Any]:
        return [functools.reduce(lambda part, name: part[name], path, r.summary) for r in group]

    return values


def _spread_of(*path: str, scale: float = 1, decimals: int = 2) -> Callable[[Group], Cell]:
    return lambda group: spread(_of_summary(*path)(group), scale, decimals)


def _mean_of(*path: str, scale: float = 1, decimals: int = 0) -> Callable[[Group], Cell]:
    return lambda group: mean(_of_summary(*path)(group), scale, decimals)


def metric_columns(metric: Metric) -> list[Column]:
    """The metric at the end of a run, and at its best evaluation on validation data."""
    shown = functools.partial(_spread_of, scale=metric.scale, decimals=metric.decimals)
    return [
        Column(metric.title(f"test {metric.name}, last"), shown("last", "test", metric.name)),
        Column(metric.title("at best validation"), shown("selected", "test", metric.name)),
        Column(metric.title("best validation"), shown("selected", "validation", metric.name)),
    ]


def cost_columns() -> list[Column]:
    """Compilation, parameters and bytes."""
    return [
        Column("compilation (s)", _mean_of("compile_seconds", decimals=1)),
        Column("parameters per device", _mean_of("parameters", "per_device")),
        Column("MB sent per device", _mean_of("bytes_per_device", scale=1e-6, decimals=2)),
    ]


def standard_columns(groups: Mapping[str, Group], metric: Metric) -> list[Column]:
    """The columns of every table."""
    seconds = _of_summary("seconds")
    limit = min(max(seconds(group)) for group in groups.values())
    after = functools.partial(_metric_after, metric=metric, limit=limit)
    return [
        Column("seeds", lambda group: Cell(str(len(group)), len(group))),
        *metric_columns(metric),
        Column("samples", _mean_of("samples_seen")),
        Column("training (s)", _spread_of("seconds")),
        Column(metric.title(f"test {metric.name} after {limit:.1f} s"), after),
        *cost_columns(),
    ]


def _metric_after(group: Group, metric: Metric, limit: float) -> Cell:
    """The test metric at the last evaluation within `limit` seconds of training."""
    values = []
    for run in group:
        pairs = zip(run.curve["seconds"], run.curve[f"test/{metric.name}"])
        within = [value for seconds, value in pairs if seconds <= limit]
        values.append(within[-1] if within else float("nan"))
    return spread(values, metric.scale, metric.decimals)


def optional_columns(runs: Sequence[Run]) -> list[Column]:
    """Columns of tables whose runs have failures, or all simulate one link."""
    made: list[Column] = []
    if any(run.summary.get("failed_workers") for run in runs):
        made.append(Column("workers failed (%)", failed_share))
    if is_simulated(runs):
        simulated = _spread_of("simulated_seconds")
        made.append(Column("over the link, simulated (s)", simulated))
    return made


def failed_share(group: Group) -> Cell:
    """The workers that failed, in per cent of all workers in all rounds."""
    workers = sum(run.summary["rounds"] * _workers(run) for run in group)
    share = 100 * sum(run.summary["failed_workers"] for run in group) / workers
    return Cell(f"{share:.1f}", share)


def _workers(run: Run) -> int:
    """The number of workers of a run; old kept tables do not state it."""
    return run.environment.get("num_workers") or num_workers(from_values(run.config))


def is_simulated(runs: Sequence[Run]) -> bool:
    """Whether all runs simulate the same link; times over different links are not comparable."""
    links = {(run.config.get("link.bandwidth"), run.config.get("link.latency")) for run in runs}
    return len(links) == 1 and all(run.summary.get("simulated_seconds") is not None for run in runs)


def named_columns(titles: Sequence[str]) -> list[Column]:
    """Columns of `IF_NAMED`."""
    return [Column(title, functools.partial(_megabytes, given=IF_NAMED[title])) for title in titles]


def _megabytes(group: Group, given: tuple[str, str | None, int]) -> Cell:
    """A cell with megabytes of one device; a range if seeds differ, as on different machines."""
    field, part, decimals = given
    of_runs = [run.summary.get(field) for run in group]
    parts = of_runs if part is None else [(value or {}).get(part) for value in of_runs]
    values = [value for value in parts if value is not None]
    if len(values) < len(group):
        return words("not measured")
    ends = sorted({min(values), max(values)})
    text = " to ".join(f"{value / 1e6:,.{decimals}f}" for value in ends)
    return mean(values, 1e-6, decimals)._replace(text=text)
