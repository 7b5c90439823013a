"""Where the rows of a run go: JSON lines, TensorBoard events, the terminal.

A row is nested by split and metric. After every round it says where the run stands:

    {"round": 3, "phase": 0, "samples_seen": 960, "seconds": 1.5, ..., "train": {"loss": 0.7}}

The row of an evaluated round also has `"validation": {"loss": 0.6, "accuracy": 0.8}` and `"test"`.
Where subnetworks are evaluated, `"validation_subnets": {"accuracy": [0.7, 0.8]}` and
`"test_subnets"` have a value for each.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO, cast

from ist_jax.training.files import write_whole

Row = Mapping[str, Any]


class Logger(Protocol):
    """Takes the rows of a run, one per round, on the first process alone."""

    def log(self, row: Row, text: str | None = None) -> None:
        """Takes one row.

        Args:
          row: nested by split and metric; see the module.
          text: a message for people, such as that the run resumes. Its row only says where the run
            stands and belongs to no record.
        """
        ...

    def close(self) -> None:
        """Releases files. Called once, also when the run fails."""
        ...


def evaluation(row: Row) -> dict[str, Mapping[str, Any]]:
    """The metrics of a row by split, training apart; {} if its round was not evaluated."""
    splits = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    return {name: value for name, value in splits.items() if name.split("_")[0] != "train"}


def flatten(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested row by joined names, such as ("test/accuracy", 0.9)."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


class JsonLines:
    """One JSON object per line.

    A line reaches the operating system at once, and the disk with the next evaluation or `sync`:
    a row per round must stay cheap.

    Args:
      path: the file, written anew.
      history: the rows so far, written first.
    """

    def __init__(self, path: pathlib.Path, history: Sequence[Row] = ()):
        write_whole(path, "".join(json.dumps(row) + "\n" for row in history))
        self._file = path.open("a")

    def log(self, row: Row, text: str | None = None) -> None:
        if text is not None:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if evaluation(row):
            self.sync()

    def sync(self) -> None:
        """Returns once all rows are on the disk."""
        with contextlib.suppress(OSError):  # pipes and devices have no disk
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when it was written; closing only retries
            self._file.close()


class TensorBoard:
    """Scalars over samples seen, with names joined by "/", as one TensorBoard event file.

    It is synchronous: tensorboardX's own writer thread dies on a full disk, and its caller then
    waits forever.

    Args:
      folder: made if it is missing; event files in it are replaced.
      history: the rows so far, written first.
    """

    def __init__(self, folder: pathlib.Path, history: Sequence[Row] = ()):
        from tensorboardX.event_file_writer import EventsWriter

        for old in folder.glob("events.*"):
            old.unlink()
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
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
        with contextlib.suppress(OSError):  # as above
            self._writer.close()
        with contextlib.suppress(OSError):  # the line above leaves it open if it cannot flush
            self._writer._py_recordio_writer.close()


class Terminal:
    """A progress bar on a terminal; elsewhere a line per evaluation.

    Args:
      total: samples of the whole run.
      name: printed in front of every line.
      file: where to print; standard error by default.
    """

    def __init__(self, total: int, name: str, file: TextIO | None = None):
        self._file = file or sys.stderr
        self._name = name
        self._bar: Any = self._make_bar(total) if self._file.isatty() else None

    def _make_bar(self, total: int) -> Any:
        from tqdm import tqdm

        form = "{desc} {percentage:3.0f}%|{bar}| {rate_fmt} {remaining} left{postfix}"
        return tqdm(
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
        """Prints a line, above the bar if there is one, which then starts at the row's samples."""
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
    """Such as 'validation loss 0.1234 accuracy 0.9000'; lists (of subnetworks) are left out."""
    numbers = {
        split: [f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float)]
        for split, values in metrics.items()
    }
    return " ".join(" ".join([split, *parts]) for split, parts in numbers.items() if parts)


def rows_until(path: pathlib.Path, last_round: int) -> list[Row]:
    """The rows of `path` up to `last_round`, stopping at the first line that is not a whole row."""
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
