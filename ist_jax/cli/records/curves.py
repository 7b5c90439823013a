"""Pictures of runs: the test metric over samples, seconds and bytes."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ist_jax.cli.records import drawing
from ist_jax.cli.records.columns import is_simulated
from ist_jax.cli.records.labels import grouped, method_of
from ist_jax.cli.records.metric import Metric, metric_of
from ist_jax.cli.records.results import Run
from ist_jax.training.files import json_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Groups = Mapping[str, Sequence[Run]]


class Panel(NamedTuple):
    """A panel of a picture, by its horizontal axis.

    Attributes:
      column: of the curve.
      scale: factor of the column's values.
      title: with the unit.
      is_sent: whether it depends on the bytes sent, which differ between methods by orders of
        magnitude.
    """

    column: str
    scale: float
    title: str
    is_sent: bool


def panels_of(runs: Sequence[Run], with_seconds: bool = True) -> list[Panel]:
    """The panels of a picture. Simulated seconds are shown if all runs simulate one link."""
    panels = [Panel("samples_seen", 1, "samples seen by all workers", False)]
    if with_seconds:
        panels.append(Panel("seconds", 1, "training (s)", False))
    panels.append(Panel("bytes_per_device", 1e-6, "sent per device (MB)", True))
    if is_simulated(runs):
        title = f"training over {runs[0].config['link.bandwidth']}, simulated (s)"
        panels.append(Panel("simulated_seconds", 1, title, True))
    return panels


def fingerprint(runs: Sequence[Run]) -> str:
    """SHA-256 of the labels and curves that a picture of `runs` is drawn from."""
    drawn = {label: [run.curve for run in group] for label, group in grouped(runs).items()}
    return hashlib.sha256(json_text(drawn).encode()).hexdigest()


def draw(runs: Sequence[Run], picture: pathlib.Path, *, with_seconds: bool = True) -> None:
    """Draws the test metric of `runs` over samples, seconds of training and bytes sent per device.

    Args:
      runs: at least one. Runs that differ only in the seed are one line: mean and deviation.
      picture: a PNG with the `fingerprint` as its description. An SVG is written beside it.
      with_seconds: whether to show seconds, which needs runs that were timed alike.
    """
    groups, metric, panels = grouped(runs), metric_of(runs), panels_of(runs, with_seconds)
    size = (4.4 * len(panels), 4 + 0.2 * -(-len(groups) // len(panels)))
    figure, axes = drawing.pyplot().subplots(
        1, len(panels), figsize=size, sharey=True, layout="constrained"
    )
    for panel, axis in zip(panels, axes):
        _draw_panel(axis, panel, groups, metric)
    axes[0].set_ylabel(metric.title(f"test {metric.name}"))
    _limit(axes[0], runs, metric)
    labels = axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=len(panels), fontsize=8)
    drawing.save(figure, picture, fingerprint(runs))


def _draw_panel(axis: "Axes", panel: Panel, groups: Groups, metric: Metric) -> None:
    variants: dict[str, int] = {}
    for label, group in groups.items():
        method = method_of(group)
        variants[method] = variants.get(method, -1) + 1
        style = drawing.line_style(method, variants[method])
        _draw_group(axis, panel, group, metric, {"label": label, **style})
    axis.set_xlabel(panel.title)
    axis.grid(alpha=0.3)
    drawing.plain_ticks(axis.xaxis)
    if panel.is_sent and any(any(run.curve["bytes_per_device"]) for run in _all(groups)):
        axis.set_xscale("log")
        drawing.plain_log_ticks(axis.xaxis)


def _all(groups: Groups) -> list[Run]:
    return [run for group in groups.values() for run in group]


def _draw_group(
    axis: "Axes", panel: Panel, group: Sequence[Run], metric: Metric, style: Mapping[str, Any]
) -> None:
    """Draws the mean over seeds, in a band of one standard deviation."""
    x_SxN = panel.scale * _columns(group, panel.column)
    y_SxN = metric.scale * _columns(group, f"test/{metric.name}")
    x_N, y_N = x_SxN.mean(axis=0), y_SxN.mean(axis=0)
    if not x_N.any():  # nothing is ever sent: a level line at the last value
        axis.axhline(y_N[-1], **style, alpha=0.5)
        return
    axis.plot(x_N, y_N, marker="o" if len(x_N) == 1 else "", **style)
    if len(group) > 1:
        deviation_N = y_SxN.std(axis=0, ddof=1)
        axis.fill_between(
            x_N, y_N - deviation_N, y_N + deviation_N, color=style["color"], alpha=0.15, linewidth=0
        )


def _columns(group: Sequence[Run], column: str) -> np.ndarray:
    """[S, N]: a column of S runs, up to the last evaluation that all of them have."""
    length = min(len(run.curve[column]) for run in group)
    return np.array([run.curve[column][:length] for run in group], dtype=float)


def _limit(axis: "Axes", runs: Sequence[Run], metric: Metric) -> None:
    """Sets the range of the metric; early evaluations far worse than the others are not shown."""
    values = metric.scale * np.concatenate([run.curve[f"test/{metric.name}"] for run in runs])
    is_max = metric.best == "max"
    low, high = np.percentile(values, (10, 100) if is_max else (0, 90)).tolist()
    span = high - low or 1.0
    below, above = (span / 4, span / 8) if is_max else (span / 8, span / 4)
    axis.set_ylim(low - below, high + above)
