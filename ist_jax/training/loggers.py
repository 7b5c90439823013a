"""Loggers, which take the rows of a run: JSON lines, TensorBoard events, the terminal.

A row is nested by split and metric. There is one after every round:

    {"round": 3, "phase": 0, "samples_seen": 960, "seconds": 1.5, ..., "train": {"loss": 0.7}}

The row of an evaluated round also has `"validation": {"loss": 0.6, "accuracy": 0.8}` and `"test"`.
If subnetworks are evaluated, it has `"validation_subnets": {"accuracy": [0.7, 0.8]}` and
`"test_subnets"`, with a value for each subnetwork.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO, cast

from ist_jax.training.files import json_content, json_text, write_whole

Row = Mapping[str, Any]


class Logger(Protocol):
    """Takes the rows of a run, one per round. Only the first process calls it."""

    def log(self, row: Row, text: str | None = None) -> None:
        """Takes one row.

        Args:
          row: nested by split and metric; see the module's docstring.
          text: a message for people, such as that the run resumes. The row then only says where the
            run stands, and is not to be recorded.
        """
        ...

    def close(self) -> None:
        """Releases files. It is called once, even if the run fails."""
        ...


def evaluation(row: Row) -> dict[str, Mapping[str, Any]]:
    """The metrics of a row by split, without training; {} if its round was not evaluated."""
    splits = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    return {name: value for name, value in splits.items() if name.split("_")[0] != "train"}


def flatten(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (name, value) pairs of a nested row, names joined by "/": ("test/accuracy", 0.9)."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


class JsonLines:
    """One JSON object per line.

    A line is passed to the operating system at once. It reaches the disk with the next evaluation
    or `sync`, so that a row per round stays cheap.

    Args:
      path: the file, which is replaced.
      history: the rows so far, which are written first.
    """

    def __init__(self, path: pathlib.Path, history: Sequence[Row] = ()):
        write_whole(path, "".join(json_text(row) + "\n" for row in history))
        self._file = path.open("a")

    def log(self, row: Row, text: str | None = None) -> None:
        if text is not None:
            return
        self._file.write(json_text(row) + "\n")
        self._file.flush()
        if evaluation(row):
            self.sync()

    def sync(self) -> None:
        """Returns once all rows are on the disk."""
        with contextlib.suppress(OSError):  # pipes and devices have no disk
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `log` has raised it; closing only retries
            self._file.close()


class TensorBoard:
    """Scalars over samples seen, with names joined by "/", as one TensorBoard event file.

    It writes without a thread: tensorboardX's writer thread dies on a full disk, and its caller
    then waits forever.

    Args:
      folder: made if it is missing. Event files in it are replaced.
      history: the rows so far, which are written first.
    """

    def __init__(self, folder: pathlib.Path, history: Sequence[Row] = ()):
        from tensorboardX.event_file_writer import EventsWriter

        for old in folder.glob("events.*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        # absolute: the writer would take a relative "gs:/..." for a bucket
        self._writer = EventsWriter(str(folder.absolute() / "events"))
        for row in history:
            self._write(row)

    def _write(self, row: Row) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2

        # protobuf makes the classes of these modules when they are imported
        events, summaries = cast(Any, event_pb2), cast(Any, summary_pb2)
        scalars = [
            summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in flatten(row)
            if isinstance(value, int | float) and name != "samples_seen"
        ]
        summary = summaries.Summary(value=scalars)
        event = events.Event(wall_time=time.time(), step=row["samples_seen"], summary=summary)
        self._writer.write_event(event)

    def log(self, row: Row, text: str | None = None) -> None:
        if text is not None:
            return
        self._write(row)
        if evaluation(row):
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `log` has raised it
            self._writer.close()
        with contextlib.suppress(OSError):  # if it cannot flush, `close` leaves this file open
            self._writer._py_recordio_writer.close()


def _bar_class(file: TextIO) -> Any:
    """tqdm's class of progress bars for a terminal or a notebook; None elsewhere.

    A notebook needs ipywidgets to show a bar.
    """
    if file.isatty():
        from tqdm import tqdm

        return tqdm
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    in_notebook = file is sys.stderr and hasattr(shell, "kernel")
    if not in_notebook or importlib.util.find_spec("ipywidgets") is None:
        return None
    from tqdm.notebook import tqdm

    return tqdm


class Terminal:
    """A progress bar on a terminal or in a notebook; elsewhere, a line per evaluation.

    Args:
      total: samples of the run.
      name: printed in front of every line.
      file: where to print; standard error by default.
    """

    def __init__(self, total: int, name: str, file: TextIO | None = None):
        self._file = file or sys.stderr
        self._name = name
        bar_class = _bar_class(self._file)
        self._bar: Any = None if bar_class is None else self._make_bar(bar_class, total)

    def _make_bar(self, bar_class: Any, total: int) -> Any:
        form = "{desc} {percentage:3.0f}%|{bar}| {rate_fmt} {remaining} left{postfix}"
        return bar_class(
            total=total,
            desc=self._name,
            unit=" samples",
            unit_scale=True,
            bar_format=form,
            file=self._file,
        )

    def log(self, row: Row, text: str | None = None) -> None:
        if text is not None:
            self._say(row, text)
        elif self._bar is not None:
            self._advance(row)
        elif evaluation(row):
            self._print(row)

    def _say(self, row: Row, text: str) -> None:
        """Prints a line. A bar stays below it, and advances to the row's samples."""
        if self._bar is None:
            print(f"{self._name}: {text}", file=self._file, flush=True)
            return
        self._bar.write(f"{self._name}: {text}", file=self._file)
        self._bar.update(row.get("samples_seen", self._bar.n) - self._bar.n)
        self._bar.unpause()

    def _advance(self, row: Row) -> None:
        losses = " ".join(f"{name} {value:.3f}" for name, value in row["train"].items())
        self._bar.set_description_str(f"{self._name} round {row['round']} {losses}", refresh=False)
        if metrics := evaluation(row):
            self._bar.set_postfix_str(_as_text(metrics))
        self._bar.update(row["samples_seen"] - self._bar.n)

    def _print(self, row: Row) -> None:
        where = f"{self._name} round {row['round']} samples {row['samples_seen']:,}"
        metrics = _as_text({"train": row["train"]} | evaluation(row))
        speed = f"{row['samples_per_second']:,.0f} samples/s"
        print(f"{where} {metrics} {speed}", file=self._file, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _as_text(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The scalar metrics of all splits, such as 'validation loss 0.1234 accuracy 0.9000'."""
    numbers = {
        split: [f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float)]
        for split, values in metrics.items()
    }
    return " ".join(" ".join([split, *parts]) for split, parts in numbers.items() if parts)


def rows_until(path: pathlib.Path, last_round: int) -> list[Row]:
    """The rows of `path` up to `last_round`, or up to the first line that is damaged."""
    if not path.exists():
        return []
    kept: list[Row] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json_content(line)
            if row["round"] <= last_round:
                kept.append(row)
        except (ValueError, TypeError, KeyError):
            break
    return kept
