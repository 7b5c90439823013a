"""Where the records of a run go: JSON lines, TensorBoard events, and the terminal."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

Row = Mapping[str, Any]


class Writer(Protocol):
    """Takes one row per evaluated round."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line, appended."""

    def __init__(self, path: pathlib.Path):
        self._file = path.open("a")

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars over samples seen, as TensorBoard event files."""

    def __init__(self, folder: pathlib.Path):
        self._writer = SummaryWriter(str(folder))

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "samples_seen":
                self._writer.add_scalar(name, value, row["samples_seen"])

    def close(self) -> None:
        self._writer.close()


class Terminal:
    """A progress bar on a terminal, plain lines elsewhere.

    Args:
      total: samples of the whole run.
      name: in front of every line.
      file: where to; standard error by default.
    """

    def __init__(self, total: int, name: str, start: int = 0, file: TextIO | None = None):
        self._file = file or sys.stderr
        self._name = name
        self._bar = None
        if self._file.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {rate_fmt} {remaining} left{postfix}"
            options = dict(unit=" samples", unit_scale=True, bar_format=form, file=self._file)
            self._bar = tqdm(total=total, initial=start, desc=name, **options)

    def advance(self, samples: int, round: int, loss: float | None) -> None:
        """A round was dispatched; `loss` is of the last one that was fetched."""
        if self._bar is not None:
            self._bar.set_description_str(
                f"{self._name} round {round}" + ("" if loss is None else f" loss {loss:.3f}"), refresh=False
            )
            self._bar.update(samples)

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


def cut_back(path: pathlib.Path, last_round: int) -> None:
    """Drops the rows of `path` after `last_round`, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["round"] <= last_round:
            kept.append(line + "\n")
    path.write_text("".join(kept))
