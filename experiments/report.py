"""Tables and pictures from run records:

    python -m experiments.report DIR... [--out=DIR]     prints the table; writes table.md, table.csv and curves.png
    python -m experiments.report DIR... --keep=RECORDS  copies config.json, metrics.jsonl and summary.json of every run
    python -m experiments.report --page=README.md       makes a page's tables and pictures anew (experiments/pages.py)

Every DIR is a workdir, or a folder of workdirs. Runs that differ in nothing but the seed are one row: mean and
standard deviation (n - 1) over seeds.
"""

import csv
import io
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.config import ConfigError
from experiments.status import Parser, RawText, exit_status


class Run(NamedTuple):
    """The record of one finished run."""

    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def read(workdir: pathlib.Path) -> Run:
    """The record in `workdir`. Raises ConfigError if it is damaged."""
    try:
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        config = json.loads((workdir / "config.json").read_text())["config"]
        return Run(config, rows, json.loads((workdir / "summary.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{workdir} holds no whole run record ({type(error).__name__}: {error})") from error


def find(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All finished workdirs in or below `folders`."""
    return sorted({file.parent for folder in folders for file in folder.rglob("summary.json")})


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label: the method, and whatever else differs between the runs, but the seed."""
    varying = [n for n in runs[0].config if n not in ("seed", "method") and len({str(r.config.get(n)) for r in runs}) > 1]
    # a field that the method alone decides (its own tuned value) says nothing new
    by_method: dict[str, dict[str, set[str]]] = {}
    for r in runs:
        for n in varying:
            by_method.setdefault(r.config["method"], {}).setdefault(n, set()).add(str(r.config.get(n)))
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
    return next((row["test_accuracy"] for row in reversed(run.rows) if row["seconds"] <= limit), float("nan"))


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Column names, and one row of cells per group."""
    groups = grouped(runs)
    limit = min(max(r.summary["seconds"] for r in group) for group in groups.values())
    mean = lambda group, get: statistics.mean(get(r.summary) for r in group)
    columns: list[tuple[str, Callable[[list[Run]], str]]] = [
        ("seeds", lambda g: str(len(g))),
        ("test accuracy, last (%)", lambda g: _spread([r.summary["test_accuracy"] for r in g])),
        ("at best validation (%)", lambda g: _spread([r.summary["test_accuracy_at_best_validation"] for r in g])),
        ("best validation (%)", lambda g: _spread([r.summary["best_validation_accuracy"] for r in g])),
        ("samples", lambda g: f"{mean(g, lambda s: s['samples_seen']):,.0f}"),
        ("training (s)", lambda g: _spread([r.summary["seconds"] for r in g], 1)),
        (f"test accuracy after {limit:.1f} s (%)", lambda g: _spread([_until(r, limit) for r in g])),
        ("compilation (s)", lambda g: f"{mean(g, lambda s: s['compile_seconds']):.1f}"),
        ("parameters per device", lambda g: f"{mean(g, lambda s: s['parameters']['per_device']):,.0f}"),
        ("MB sent per device", lambda g: f"{mean(g, lambda s: s['bytes_per_device']) / 1e6:,.2f}"),
    ]
    cells = [[label, *(column(group) for _, column in columns)] for label, group in groups.items()]
    return ["method", *(name for name, _ in columns)], cells


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _curve(axis: Any, group: Sequence[Run], field: str, scale: float, label: str) -> None:
    """The mean over seeds, and a band of one standard deviation."""
    length = min(len(r.rows) for r in group)
    x = np.mean([[row[field] for row in r.rows[:length]] for r in group], axis=0) * scale
    y = 100 * np.array([[row["test_accuracy"] for row in r.rows[:length]] for r in group])
    if not x.any():  # nothing is ever sent: a level to compare with
        axis.axhline(y[:, -1].mean(), linestyle=":", linewidth=1, color=axis._get_lines.get_next_color(), label=label)
        return
    (line,) = axis.plot(x, y.mean(axis=0), label=label, linewidth=1.5)
    if len(group) > 1:
        axis.fill_between(x, y.mean(0) - y.std(0, ddof=1), y.mean(0) + y.std(0, ddof=1), color=line.get_color(), alpha=0.2)


def curves(workdirs: Sequence[pathlib.Path], picture: pathlib.Path, description: str = "") -> None:
    """Draws test accuracy over samples, seconds of training and bytes sent per device; PNG, with a description."""
    groups = grouped([read(workdir) for workdir in workdirs])
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
    panels = (
        ("samples_seen", 1, "samples seen, all workers"),
        ("seconds", 1, "seconds of training"),
        ("bytes_per_device", 1e-6, "MB sent per device"),
    )
    for axis, (field, scale, title) in zip(axes, panels):
        for label, group in groups.items():
            _curve(axis, group, field, scale, label)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    if any(row["bytes_per_device"] for group in groups.values() for r in group for row in r.rows):
        axes[2].set_xscale("log")
    final = [100 * row["test_accuracy"] for group in groups.values() for r in group for row in r.rows]
    axes[0].set_ylim(max(0, float(np.percentile(final, 10)) - 3), max(final) + 1)
    axes[0].set_ylabel("test accuracy (%)")
    axes[0].legend(fontsize=8)
    figure.savefig(picture, dpi=110, metadata={"Description": description})
    plt.close(figure)


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> str:
    """Writes table.md, table.csv and curves.png of the finished runs to `out`; returns the table as markdown."""
    workdirs = find(folders)
    header, rows = table([read(workdir) for workdir in workdirs])
    text = markdown(header, rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    (out / "table.csv").write_text(buffer.getvalue())
    curves(workdirs, out / "curves.png")
    return text


def main(argv: Sequence[str]) -> int:
    from experiments import pages

    parser = Parser(prog="experiments.report", description=__doc__, formatter_class=RawText, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, metavar="DIR")
    for option in ("--out", "--keep", "--page"):
        parser.add_argument(option, type=pathlib.Path)

    def act() -> None:
        given = parser.parse_args(argv[1:])
        if given.page:
            return pages.rebuild(given.page)
        if not find(given.folders):
            raise ConfigError(f"no finished run (summary.json) in {', '.join(map(str, given.folders)) or 'no folder'}")
        if given.keep:
            return print(f"{len(pages.keep(given.folders, given.keep))} records kept in {given.keep}")
        out = given.out or given.folders[0]
        print(write(given.folders, out))
        print(f"picture: {out / 'curves.png'}")

    return exit_status(act)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
