"""What a run leaves on disk: metrics, TensorBoard events, checkpoints, the summary; and who may write there."""

import contextlib
import fcntl
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from ist_jax.core.processes import OtherProcessError, all_succeed
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.files import write_whole
from ist_jax.training.loggers import JsonLines, Row, TensorBoard, Writer, rows_until

AFRESH = "a run was begun here and no checkpoint of it was committed: starting afresh"


class WorkdirError(RuntimeError):
    """A workdir that is in use, cannot be written, or cannot be gone on from."""


def is_locked(path: pathlib.Path) -> bool:
    """Whether a run is writing in the workdir `path` now."""
    try:
        with (path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # none, or a file system without locks
        return False
    return False


class Workdir:
    """The workdir of one run, which holds it alone until `close`. None of its methods does anything without a path.

    Args:
      path: the folder; None: nothing is written anywhere.
      say: takes lines about what was found.

    Attributes:
      saved: the bookkeeping of the checkpoint that the run goes on from, None if it starts.
      history: the rows up to there.

    Raises:
      WorkdirError: another run holds it, it cannot be written, or all of its checkpoints are damaged.
    """

    def __init__(self, path: str | pathlib.Path | None, say: Callable[[str], None]):
        self.saved: dict[str, Any] | None = None
        self.history: list[Row] = []
        self._path = None if path is None else pathlib.Path(path)
        self._say, self._open_files = say, contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None
        self._writers: list[Writer] = []
        if self._path is None:
            return
        try:
            self._open(self._path)
        except BaseException:
            self._open_files.close()
            raise

    def _open(self, path: pathlib.Path) -> None:
        with self._explained():
            begun = (path / "lock").exists()
            all_succeed(lambda: self._take(path))
            self._checkpoints = Checkpoints(path / "checkpoints", self._say)
            self.saved = self._checkpoints.bookkeeping()
            all_succeed(lambda: self._begin_records(path))
        if begun and self.saved is None:
            self._say(f"{path}: {AFRESH}")

    def _take(self, path: pathlib.Path) -> None:
        if jax.process_index() == 0:
            path.mkdir(parents=True, exist_ok=True)
            self._lock(path / "lock")
            self._check_committed(path)

    def _begin_records(self, path: pathlib.Path) -> None:
        """Checkpoints are written by all processes, records by one."""
        self.history = self._rows_until_checkpoint(path / "metrics.jsonl")
        if jax.process_index() == 0:
            self._add(JsonLines(path / "metrics.jsonl", self.history))
            self._add(TensorBoard(path / "tensorboard", self.history))

    def _add(self, writer: Writer) -> None:
        self._open_files.callback(writer.close)
        self._writers.append(writer)

    def _check_committed(self, path: pathlib.Path) -> None:
        """Checkpoint 0 comes before the first row: rows without one mean that checkpoints were lost."""
        lost = not any((path / "checkpoints").glob("*.sha256*"))
        if lost and rows_until(path / "metrics.jsonl", sys.maxsize):
            raise WorkdirError(
                f"{path}: rounds were evaluated here and all checkpoints are gone: use another workdir"
            )

    def _rows_until_checkpoint(self, metrics: pathlib.Path) -> list[Row]:
        if self.saved is None:
            return []
        round, written = self.saved.get("round"), self.saved.get("rows")
        if type(round) is not int or type(written) is not int:
            raise WorkdirError(
                f"{self._path}: its checkpoint says neither its round nor its rows: use another workdir"
            )
        rows = rows_until(metrics, round)
        if len(rows) < written:
            raise WorkdirError(
                f"{metrics} is damaged: {len(rows)} of its first {written} rows can be read: repair it, or use another workdir"
            )
        return rows

    def _lock(self, path: pathlib.Path) -> None:
        """Until the process ends, however it ends: the lock is the kernel's."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._open_files.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirError(
                f"{self._path}: another run is writing here; wait for it, or use another workdir"
            ) from error
        except OSError:  # some network file systems have no locks
            self._say(
                f"{self._path}: this file system has no locks; let no two runs write here at once"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkdirError(
                f"{self._path}: cannot be written or read ({error.strerror}); what was written before stands"
            ) from error
        except (CheckpointError, OtherProcessError) as error:
            raise WorkdirError(str(error)) from error

    def write(self, row: Row) -> None:
        """Appends the row of an evaluated round."""
        with self._explained():
            all_succeed(lambda: self._write(row))
        self.history.append(row)

    def _write(self, row: Row) -> None:
        for writer in self._writers:
            writer.write(row)

    def save(self, round: int, state: Any, params: Any, bookkeeping: Mapping[str, Any]) -> None:
        """Commits a checkpoint; arguments as of `Checkpoints.save`."""
        if self._checkpoints:
            with self._explained():
                self._checkpoints.save(round, state, params, bookkeeping)

    def restore(self, like: Any, params: Any) -> Any:
        """The state of the checkpoint that `saved` belongs to; arguments as of `Checkpoints.restore`."""
        with self._explained():
            return self._checkpoints.restore(like, params)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json: the run is finished."""
        if self._path is not None and jax.process_index() == 0:
            with self._explained():
                write_whole(self._path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        """Lets the next run in."""
        self._open_files.close()
