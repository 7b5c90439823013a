"""Tables and pictures of run records."""

import csv
import functools
import io
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.records.record import MAY_CHANGE, as_json
from ist_jax.training.files import with_path, write_whole

_OF_ROW = ("samples_seen", "seconds", "bytes_per_device", "test_accuracy")
_OF_SUMMARY = (
    *_OF_ROW,
    "test_accuracy_at_best_validation",
    "best_validation_accuracy",
    "compile_seconds",
)


class Run(NamedTuple):
    """The record of one finished run."""

    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def read(workdir: pathlib.Path) -> Run:
    """The record in `workdir`. Raises ConfigError if it is damaged."""
    try:
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        kept = json.loads((workdir / "config.json").read_text())["config"]
        config = as_json(Config()) | kept  # a field that is newer than the run had its default
        summary = json.loads((workdir / "summary.json").read_text())
        _check(config, rows, summary)
        return Run(config, rows, summary)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{workdir} holds no whole run record ({type(error).__name__}: {error})"
        ) from error


def _check(config: dict[str, Any], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Raises if a field that a table or a picture needs is missing, or no number."""
    needed = [summary[name] for name in _OF_SUMMARY] + [summary["parameters"]["per_device"]]
    needed += [row[name] for row in rows or [{}] for name in _OF_ROW]
    needed += [
        found["simulated_seconds"]
        for found in (summary, *rows)
        if found.get("simulated_seconds") is not None
    ]
    if wrong := [
        value for value in needed if type(value) not in (int, float) or not math.isfinite(value)
    ]:
        raise ValueError(f"{wrong[0]!r} is no finite number")
    if not isinstance(config["method"], str):
        raise ValueError(f"method is a name, not {config['method']!r}")


def find(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All finished workdirs in or below `folders`."""
    return sorted({file.parent for folder in folders for file in folder.rglob("summary.json")})


def unfinished(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All begun and unfinished workdirs in or below `folders`."""
    begun = {file.parent for folder in folders for file in folder.rglob("config.json")}
    return sorted(workdir for workdir in begun if not (workdir / "summary.json").exists())


def text(folders: Sequence[pathlib.Path]) -> str:
    """The table of the finished runs in or below `folders`, as markdown."""
    return markdown(*table([read(workdir) for workdir in find(folders)]))


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label: the method, and whatever else differs between the runs, but the seed.

    Where workers train is what `auto` found on a machine, and where data lie, how often it is saved and whether exchanges are
    timed its user's business, unless one seed was run here and there.
    """
    groups = _by_label(
        runs, ("seed", "method", "data.dir", "checkpoint_every", "time_syncs", *MAY_CHANGE)
    )
    twice = any(
        len({r.config.get("seed") for r in group}) < len(group) for group in groups.values()
    )
    groups = _by_label(runs, ("seed", "method")) if twice else groups
    return dict(
        sorted(groups.items(), key=lambda found: (_method(found[1]), _workers(found[1]) or 0))
    )


def _by_label(runs: Sequence[Run], unsaid: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by their method and all fields that differ, but those `unsaid`."""
    varying = [
        n
        for n in runs[0].config
        if n not in unsaid and len({str(r.config.get(n)) for r in runs}) > 1
    ]
    # a field that the method alone decides (its own tuned value) says nothing new
    by_method: dict[str, dict[str, set[str]]] = {}
    for r in runs:
        for n in varying:
            by_method.setdefault(r.config["method"], {}).setdefault(n, set()).add(
                str(r.config.get(n))
            )
    groups: dict[str, list[Run]] = {}
    for r in runs:
        shown = [n for n in varying if len(by_method[r.config["method"]][n]) > 1]
        label = ", ".join([r.config["method"], *(f"{n}={r.config.get(n)}" for n in shown)])
        groups.setdefault(label, []).append(r)
    return groups


def _spread(values: Sequence[float], scale: float = 100) -> str:
    if np.isnan(values).any():
        return "not evaluated"
    mean = f"{scale * statistics.mean(values):.2f}"
    return f"{mean} ± {scale * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _until(run: Run, limit: float) -> float:
    """Test accuracy of the last evaluation within `limit` seconds of training, nan if there is none."""
    return next(
        (row["test_accuracy"] for row in reversed(run.rows) if row["seconds"] <= limit),
        float("nan"),
    )


LINES = ("-", "--", ":", "-.")
REACHED = {  # what a run had spent when it first reached a test accuracy: name -> (its field, scale)
    "simulated s": ("simulated_seconds", 1),
    "training s": ("seconds", 1),
    "MB": ("bytes_per_device", 1e-6),
}


def _spent(runs: Sequence[Run], name: str, percent: float) -> list[float | None]:
    """What every run had spent at its first evaluation with that test accuracy; None: it has none."""
    field, scale = REACHED[name]
    if any(field not in row for r in runs for row in r.rows):
        raise ConfigError(f"'{name} to {percent:g} %' needs {field} in every run, and one has none")
    return [
        next((scale * row[field] for row in r.rows if 100 * row["test_accuracy"] >= percent), None)
        for r in runs
    ]


def _reached(runs: Sequence[Run], name: str, percent: float) -> str:
    """Mean and deviation of `_spent`."""
    at = _spent(runs, name, percent)
    if any(value is None for value in at):
        return f"{sum(value is not None for value in at)} of {len(at)} reach it"
    return _spread(at, 1)


def _method(runs: Sequence[Run]) -> str:
    return runs[0].config["method"]


def _workers(runs: Sequence[Run]) -> Any:
    return runs[0].config.get("num_subnets")


def _times_ist(
    runs: Sequence[Run], name: str, percent: float, groups: Mapping[str, Sequence[Run]]
) -> str:
    """The mean of `_spent` over that of IST's runs with the same values, or its only ones with as many workers, where methods
    have values of their own; '' where a run does not reach it, or is IST's."""
    label = next(label for label, group in groups.items() if group is runs)
    as_many = [g for g in groups.values() if _method(g) == "ist" and _workers(g) == _workers(runs)]
    of_ist = groups.get(
        ", ".join(["ist", *label.split(", ")[1:]]), as_many[0] if len(as_many) == 1 else []
    )
    ours, theirs = (_spent(group, name, percent) for group in (of_ist, runs))
    if of_ist is runs or not ours or None in ours or None in theirs:
        return ""
    return f"{statistics.mean(theirs) / statistics.mean(ours):.1f}"


def _simulated(runs: Sequence[Run]) -> bool:
    """Whether all runs had the same link to simulate: times over different ones are not compared."""
    links = {(run.config.get("link.bandwidth"), run.config.get("link.latency")) for run in runs}
    return len(links) == 1 and all(run.summary.get("simulated_seconds") is not None for run in runs)


def _lost(runs: Sequence[Run]) -> str:
    """Of all workers in all rounds, those whose round was lost."""
    workers = sum(r.summary["rounds"] * r.config["num_subnets"] for r in runs)
    return f"{100 * sum(r.summary['lost_workers'] for r in runs) / workers:.1f}"


IF_NAMED = {  # columns of a page that asks for them: name -> (field of the summary, field of that, decimals)
    "MB per synchronisation": ("bytes_per_sync_per_device", "arithmetic", 3),
    "memory of a device between rounds (MB)": ("memory_bytes_per_device", "state", 1),
    "memory of a device at most (MB)": ("memory_bytes_per_device", "peak", 1),
}


def _megabytes(runs: Sequence[Run], field: str, part: str, decimals: int) -> str:
    """Of a device; memory is that of the machine that runs were on, and both depend on shapes alone."""
    found = {(r.summary.get(field) or {}).get(part) for r in runs}
    if None in found:
        return "not measured"
    return " to ".join(f"{value / 1e6:,.{decimals}f}" for value in sorted({min(found), max(found)}))


def table(
    runs: Sequence[Run], targets: Sequence[tuple[str, float]] = (), named: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Column names, and one row of cells per group.

    Args:
      runs: of the table.
      targets: (a name of `REACHED`, test accuracy in per cent), a column each, and one of how many times IST's that is.
      named: columns of `IF_NAMED`.
    """
    groups = grouped(runs)
    limit = min(max(r.summary["seconds"] for r in group) for group in groups.values())
    mean = lambda group, get: statistics.mean(get(r.summary) for r in group)
    columns: list[tuple[str, Callable[[list[Run]], str]]] = [
        ("seeds", lambda g: str(len(g))),
        ("test accuracy, last (%)", lambda g: _spread([r.summary["test_accuracy"] for r in g])),
        (
            "at best validation (%)",
            lambda g: _spread([r.summary["test_accuracy_at_best_validation"] for r in g]),
        ),
        (
            "best validation (%)",
            lambda g: _spread([r.summary["best_validation_accuracy"] for r in g]),
        ),
        ("samples", lambda g: f"{mean(g, lambda s: s['samples_seen']):,.0f}"),
        ("training (s)", lambda g: _spread([r.summary["seconds"] for r in g], 1)),
        (
            f"test accuracy after {limit:.1f} s (%)",
            lambda g: _spread([_until(r, limit) for r in g]),
        ),
        ("compilation (s)", lambda g: f"{mean(g, lambda s: s['compile_seconds']):.1f}"),
        (
            "parameters per device",
            lambda g: f"{mean(g, lambda s: s['parameters']['per_device']):,.0f}",
        ),
        ("MB sent per device", lambda g: f"{mean(g, lambda s: s['bytes_per_device']) / 1e6:,.2f}"),
    ]
    if any(r.summary.get("lost_workers") for r in runs):
        columns.append(("workers lost (%)", _lost))
    if _simulated(runs):
        columns.append(
            (
                "over the link, simulated (s)",
                lambda g: _spread([r.summary["simulated_seconds"] for r in g], 1),
            )
        )
    for name, percent in targets:
        columns.append(
            (f"{name} to {percent:g} %", functools.partial(_reached, name=name, percent=percent))
        )
        of_ist = functools.partial(_times_ist, name=name, percent=percent, groups=groups)
        columns.append((f"times ist's {name} to {percent:g} %", of_ist))
    for name in named:
        columns.append((name, lambda g, given=IF_NAMED[name]: _megabytes(g, *given)))
    cells = [[label, *(column(group) for _, column in columns)] for label, group in groups.items()]
    return ["method", *(name for name, _ in columns)], cells


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _styles(groups: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """A colour for every method, and a kind of line for every one of its groups."""
    methods = list(dict.fromkeys(map(_method, groups.values())))
    styles: dict[str, dict[str, Any]] = {}
    for label, group in groups.items():
        colour = f"C{methods.index(_method(group))}"
        before = sum(style["color"] == colour for style in styles.values())
        styles[label] = {
            "color": colour,
            "linestyle": LINES[before % len(LINES)],
            "linewidth": 1.5 + before // len(LINES),
        }
    return styles


def _curve(
    axis: Any, group: Sequence[Run], field: str, scale: float, style: Mapping[str, Any]
) -> None:
    """The mean over seeds, and a band of one standard deviation."""
    length = min(len(r.rows) for r in group)
    x = np.mean([[row[field] for row in r.rows[:length]] for r in group], axis=0) * scale
    y = 100 * np.array([[row["test_accuracy"] for row in r.rows[:length]] for r in group])
    if not x.any():  # nothing is ever sent: a level to compare with, its last accuracy
        axis.axhline(y[:, -1].mean(), **style, alpha=0.5)
        return
    axis.plot(x, y.mean(axis=0), marker="o" if length == 1 else "", **style)
    if len(group) > 1:
        axis.fill_between(
            x,
            y.mean(0) - y.std(0, ddof=1),
            y.mean(0) + y.std(0, ddof=1),
            color=style["color"],
            alpha=0.15,
        )


def curves(
    workdirs: Sequence[pathlib.Path],
    picture: pathlib.Path,
    description: str = "",
    *,
    with_seconds: bool = True,
) -> None:
    """Draws test accuracy over samples, seconds of training (if they can be compared) and bytes sent per device.

    A PNG, with a description.
    """
    runs = [read(workdir) for workdir in workdirs]
    groups = grouped(runs)
    panels = [
        ("samples_seen", 1, "samples seen, all workers"),
        *([("seconds", 1, "seconds of training")] if with_seconds else []),
        ("bytes_per_device", 1e-6, "MB sent per device"),
    ]
    if _simulated(runs):
        panels.append(
            (
                "simulated_seconds",
                1,
                f"seconds over a link of {runs[0].config['link.bandwidth']}, simulated",
            )
        )
    styles, columns = _styles(groups), len(panels)
    size = (4.4 * columns, 4 + 0.2 * -(-len(groups) // columns))
    figure, axes = plt.subplots(1, columns, figsize=size, sharey=True, layout="constrained")
    for axis, (field, scale, title) in zip(axes, panels):
        for label, group in groups.items():
            _curve(axis, group, field, scale, {"label": label, **styles[label]})
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    if any(row["bytes_per_device"] for group in groups.values() for r in group for row in r.rows):
        for axis, (field, *_) in zip(axes, panels):
            if field in ("bytes_per_device", "simulated_seconds"):
                axis.set_xscale("log")
    final = [
        100 * row["test_accuracy"] for group in groups.values() for r in group for row in r.rows
    ]
    axes[0].set_ylim(max(0, float(np.percentile(final, 10)) - 3), max(final) + 1)
    axes[0].set_ylabel("test accuracy (%)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8
    )
    unfinished = picture.with_name(f".{os.getpid()}.{picture.name}")  # another sweep may write here
    try:
        with with_path(picture):
            figure.savefig(unfinished, dpi=110, format="png", metadata={"Description": description})
            unfinished.replace(picture)
    finally:
        plt.close(figure)
        unfinished.unlink(missing_ok=True)


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> str:
    """Writes table.md, table.csv and curves.png of the finished runs to `out`; returns the table as markdown."""
    workdirs = find(folders)
    header, rows = table([read(workdir) for workdir in workdirs])
    text = markdown(header, rows)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "table.md", text)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    write_whole(out / "table.csv", buffer.getvalue())
    curves(workdirs, out / "curves.png")
    return text
