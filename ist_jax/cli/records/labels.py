"""Labels of a table's rows: runs that differ only in the seed are one group with one label."""

from collections.abc import Sequence
from typing import Any

from ist_jax.cli.records.record import MAY_CHANGE
from ist_jax.cli.records.results import Run

# Fields that a label leaves out: where workers train, where data are, how often a run is saved.
OMITTED = ("seed", "method", "data.dir", "checkpoint_every", "time_syncs", *MAY_CHANGE)


def method_of(runs: Sequence[Run]) -> str:
    """The name of the method of a group of runs."""
    return runs[0].config["method"]


def workers_of(runs: Sequence[Run]) -> Any:
    """num_subnets of a group of runs; None if a run does not have it."""
    return runs[0].config.get("num_subnets")


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label, sorted by method and number of workers.

    A label is the method and every field that differs between runs of that method. If a group has
    a seed twice, such as in two placements, labels also name the fields in `OMITTED`.
    """
    groups = _by_label(runs, OMITTED)
    if any(_has_a_seed_twice(group) for group in groups.values()):
        groups = _by_label(runs, ("seed", "method"))
    order = sorted(groups, key=lambda label: _rank(groups[label]))
    return {label: groups[label] for label in order}


def _rank(group: Sequence[Run]) -> tuple[str, int]:
    return method_of(group), workers_of(group) or 0


def _has_a_seed_twice(group: Sequence[Run]) -> bool:
    return len({run.config.get("seed") for run in group}) < len(group)


def _by_label(runs: Sequence[Run], omitted: Sequence[str]) -> dict[str, list[Run]]:
    differing = _differing(runs, [name for name in runs[0].config if name not in omitted])
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.config["method"], []).append(run)
    # A field that depends only on the method, such as its tuned rate, adds nothing to a label.
    shown = {method: _differing(group, differing) for method, group in by_method.items()}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        values = [f"{name}={run.config.get(name)}" for name in shown[run.config["method"]]]
        groups.setdefault(", ".join([run.config["method"], *values]), []).append(run)
    return groups


def _differing(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """The fields of `names` that have more than one value in `runs`."""
    return [name for name in names if len({str(run.config.get(name)) for run in runs}) > 1]
