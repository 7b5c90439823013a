"""The style of all pictures: a colour per method, readable axes, a PNG and an SVG of each."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ist_jax.training.files import with_path

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Colours that most readers with colour blindness can distinguish (Okabe and Ito, 2008; Tol, 2021).
METHOD_COLOURS = {
    "ist": "#0072B2",
    "data_parallel": "#D55E00",
    "local_sgd": "#009E73",
    "diloco": "#CC79A7",
    "streaming_diloco": "#882255",
    "sparse_loco": "#999933",
    "ensemble": "#E69F00",
    "single": "#4D4D4D",
}
OTHER_COLOUR = "#56B4E9"  # of any other method
LINES = ("-", "--", ":", "-.")
FILE_TYPES = ("png", "svg")


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files. It is imported here because it is slow."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def line_style(method: str, variant: int) -> dict[str, Any]:
    """Keyword arguments of a plot: the colour of a method, and the line of its variant, from 0."""
    return {
        "color": METHOD_COLOURS.get(method, OTHER_COLOUR),
        "linestyle": LINES[variant % len(LINES)],
        "linewidth": 1.5 + variant // len(LINES),
    }


def plain_ticks(axis: "Axis") -> None:
    """Labels a linear axis with about five plain numbers: 500,000 rather than 0.5 and 1e6."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:,.10g}"


def plain_log_ticks(axis: "Axis") -> None:
    """Labels a logarithmic axis with plain numbers: 1, 2, 5, 10, or powers of ten if it is long."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    is_short = math.log10(high / low) < 3
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if is_short else (1,)))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator() if is_short else LogLocator(10, subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())


def count_ticks(axis: "Axis", counts: Sequence[int]) -> None:
    """Labels a logarithmic axis of workers or devices: 1, 2, 4, ..."""
    from matplotlib.ticker import FixedLocator, NullLocator

    values = sorted(set(counts))
    axis.set_major_locator(FixedLocator(values))
    axis.set_ticklabels([str(value) for value in values])
    axis.set_minor_locator(NullLocator())


def save(figure: "Figure", picture: pathlib.Path, description: str = "") -> None:
    """Writes `picture`, a PNG, and an SVG beside it, completely or not at all; closes the figure.

    Raises:
      OSError: a file cannot be written; the error names it.
    """
    plt = pyplot()
    try:
        with plt.rc_context({"svg.hashsalt": "ist_jax"}):  # equal pictures are equal files
            for kind in FILE_TYPES:
                metadata = {"Description": description} | ({"Date": None} if kind == "svg" else {})
                with _replacing(picture.with_suffix(f".{kind}")) as unfinished:
                    figure.savefig(unfinished, dpi=110, format=kind, metadata=metadata)
    finally:
        plt.close(figure)


@contextlib.contextmanager
def _replacing(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file to write, which replaces `file` at the end. Several processes may replace `file`."""
    unfinished = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        with with_path(file):
            yield unfinished
            unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
