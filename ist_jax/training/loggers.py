"""Where the records of a run go: JSON lines, TensorBoard events, and the terminal."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar
from tqdm import tqdm

from ist_jax.training.files import write_whole

Row = Mapping[str, Any]


class Writer(Protocol):
    """Takes one row per evaluated round."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line, the rows so far first; a line is on the disk when `write` returns."""

    def __init__(self, path: pathlib.Path, history: Sequence[Row] = ()):
        write_whole(path, "".join(json.dumps(row) + "\n" for row in history))
        self._file = path.open("a")

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        with contextlib.suppress(OSError):  # pipes and devices have no disk
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # said when it was written; closing only tries again
            self._file.close()


class TensorBoard:
    """Scalars over samples seen, as one TensorBoard event file that is written anew with the rows so far.

    Synchronous: tensorboardX's own writer thread dies on a full disk, and its caller then waits for ever.
    """

    def __init__(self, folder: pathlib.Path, history: Sequence[Row] = ()):
        for old in folder.glob("events.*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        for row in history:
            self._add(row)

    def _add(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "samples_seen":
                event = Event(
                    wall_time=time.time(), step=row["samples_seen"], summary=scalar(name, value)
                )
                self._writer.write_event(event)

    def write(self, row: Row) -> None:
        self._add(row)
        self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # as above
            self._writer.close()
        with contextlib.suppress(OSError):  # which does not close the file if it cannot flush it
            self._writer._py_recordio_writer.close()


class Terminal:
    """A progress bar on a terminal, plain lines elsewhere.

    Args:
      total: samples of the whole run.
      name: in front of every line.
      file: where to; standard error by default.
    """

    def __init__(self, total: int, name: str, file: TextIO | None = None):
        self._file = file or sys.stderr
        self._name = name
        self._bar = None
        if self._file.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {rate_fmt} {remaining} left{postfix}"
            options = dict(unit=" samples", unit_scale=True, bar_format=form, file=self._file)
            self._bar = tqdm(total=total, desc=name, **options)

    def start_at(self, samples: int, round: int) -> None:
        """The run goes on from an earlier one."""
        self.say(f"going on after round {round}")
        if self._bar is not None:
            self._bar.update(samples)
            self._bar.unpause()

    def advance(self, samples: int, round: int, loss: float | None) -> None:
        """A round was dispatched; `loss` is of the last one that was fetched."""
        if self._bar is not None:
            self._bar.set_description_str(
                f"{self._name} round {round}" + ("" if loss is None else f" loss {loss:.3f}"),
                refresh=False,
            )
            self._bar.update(samples)

    def say(self, line: str) -> None:
        """A line of its own, above the bar if there is one."""
        tqdm.write(f"{self._name}: {line}", file=self._file)

    def write(self, row: Row) -> None:
        accuracy = f"validation {row['validation_accuracy']:.4f} test {row['test_accuracy']:.4f}"
        if self._bar is not None:
            self._bar.set_postfix_str(accuracy)
            return
        print(
            f"{self._name} round {row['round']} samples {row['samples_seen']:,} loss {row['train_loss']:.4f} {accuracy} "
            f"{row['samples_per_second']:,.0f} samples/s",
            file=self._file,
            flush=True,
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def rows_until(path: pathlib.Path, last_round: int) -> list[Row]:
    """The rows of `path` up to `last_round`, and none behind a half-written line."""
    if not path.exists():
        return []
    kept: list[Row] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            if row["round"] <= last_round:
                kept.append(row)
        except (ValueError, TypeError, KeyError):
            break
    return kept
