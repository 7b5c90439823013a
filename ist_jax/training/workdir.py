"""The workdir of a run: rows, TensorBoard events, checkpoints, the summary, and a lock."""

import contextlib
import fcntl
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ist_jax.core.processes import OtherProcessError, all_succeed, is_first
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.files import json_text, write_whole
from ist_jax.training.loggers import JsonLines, Logger, Row, TensorBoard, rows_until

STARTS_AGAIN = "a run began here and committed no checkpoint: starting again"


class WorkdirError(RuntimeError):
    """A workdir is in use, cannot be written, or cannot be resumed from."""


def is_locked(path: pathlib.Path) -> bool:
    """Whether a run is writing in the workdir `path`."""
    try:
        with (path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without locks
        return False
    return False


class Workdir:
    """The workdir of one run, locked until `close`. Without a path, its methods do nothing.

    It is a logger: rows go to metrics.jsonl and to TensorBoard events.

    Args:
      path: the folder; None writes nothing.
      say: is called with messages for people.

    Attributes:
      saved: the run state in the newest checkpoint, from which the run resumes; None if the run
        starts.
      history: the rows up to that checkpoint.

    Raises:
      WorkdirError: another run writes in the folder, the folder cannot be written, all of its
        checkpoints are damaged, or an earlier version of this software wrote them.
    """

    def __init__(self, path: str | pathlib.Path | None, say: Callable[[str], None]):
        self.saved: dict[str, Any] | None = None
        self.history: list[Row] = []
        self._path = None if path is None else pathlib.Path(path).expanduser()
        self._say, self._open_files = say, contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None
        self._metrics: JsonLines | None = None
        self._loggers: list[Logger] = []
        if self._path is None:
            return
        try:
            self._open(self._path)
        except BaseException:
            self._open_files.close()
            raise

    def _open(self, path: pathlib.Path) -> None:
        with self._as_workdir_error():
            begun = (path / "lock").exists()
            all_succeed(lambda: self._claim(path))
            self._checkpoints = Checkpoints(path / "checkpoints", self._say)
            self.saved = self._checkpoints.run_state()
            all_succeed(lambda: self._start_records(path))
        if begun and self.saved is None:
            self._say(f"{path}: {STARTS_AGAIN}")

    def _claim(self, path: pathlib.Path) -> None:
        if is_first():
            path.mkdir(parents=True, exist_ok=True)
            self._lock(path / "lock")
            self._check_committed(path)

    def _start_records(self, path: pathlib.Path) -> None:
        """Opens the records, which one process writes. All processes write checkpoints."""
        self.history = self._rows_until_checkpoint(path / "metrics.jsonl")
        if is_first():
            self._metrics = JsonLines(path / "metrics.jsonl", self.history)
            self._add(self._metrics)
            self._add(TensorBoard(path / "tensorboard", self.history))

    def _add(self, logger: Logger) -> None:
        self._open_files.callback(logger.close)
        self._loggers.append(logger)

    def _check_committed(self, path: pathlib.Path) -> None:
        """Refuses rows without checkpoints: checkpoint 0 is written before the first row."""
        none_committed = not any((path / "checkpoints").glob("*.sha256*"))
        if none_committed and rows_until(path / "metrics.jsonl", sys.maxsize):
            raise WorkdirError(
                f"{path}: rounds were trained here, and all checkpoints are missing: "
                f"use another workdir"
            )

    def _rows_until_checkpoint(self, metrics: pathlib.Path) -> list[Row]:
        if self.saved is None:
            return []
        round = self.saved.get("round")
        if type(round) is not int:
            raise WorkdirError(
                f"{self._path}: its checkpoint does not say its round: use another workdir"
            )
        rows = rows_until(metrics, round)
        if len(rows) != round:  # one row per round
            raise WorkdirError(
                f"{metrics} is damaged: {len(rows)} of its first {round} rows can be read: "
                f"repair it, or use another workdir"
            )
        return rows

    def _lock(self, path: pathlib.Path) -> None:
        """Locks the workdir. The kernel releases the lock if the process dies."""
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
                f"{self._path}: this file system has no locks; start only one run at a time here"
            )

    @contextlib.contextmanager
    def _as_workdir_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkdirError(
                f"{self._path}: cannot be written or read ({error.strerror}); "
                f"what was written before is kept"
            ) from error
        except (CheckpointError, OtherProcessError) as error:
            raise WorkdirError(str(error)) from error

    def begin(self, content: Callable[[], Mapping[str, Any]]) -> None:
        """Writes `content()` to config.json, unless that file exists.

        Raises:
          WorkdirError: it cannot be written.
        """
        if self._path is None:
            return
        file = self._path / "config.json"
        with self._as_workdir_error():
            all_succeed(
                lambda: (
                    write_whole(file, json_text(content(), indent=2) + "\n")
                    if is_first() and not file.exists()
                    else None
                )
            )

    def log(self, row: Row, text: str | None = None) -> None:
        """Appends the row of a round. Raises WorkdirError if it cannot be written."""
        with self._as_workdir_error():
            for logger in self._loggers:
                logger.log(row, text)

    def save(self, round: int, state: Any, params: Any, run_state: Mapping[str, Any]) -> None:
        """Commits a checkpoint once all rows up to it are on the disk.

        Arguments are those of `Checkpoints.save`. Raises WorkdirError if it cannot be written.
        """
        if self._checkpoints:
            with self._as_workdir_error():
                all_succeed(self._sync)
                self._checkpoints.save(round, state, params, run_state)

    def _sync(self) -> None:
        if self._metrics:
            self._metrics.sync()

    def restore(self, like: Any, params: Any) -> Any:
        """The state in the newest checkpoint; arguments are those of `Checkpoints.restore`.

        Raises:
          WorkdirError: the checkpoint is damaged or does not fit.
        """
        with self._as_workdir_error():
            assert self._checkpoints is not None  # `saved` came from them
            return self._checkpoints.restore(like, params)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished.

        Raises:
          WorkdirError: it cannot be written.
        """
        if self._path is not None and is_first():
            with self._as_workdir_error():
                write_whole(self._path / "summary.json", json_text(summary, indent=2) + "\n")

    def close(self) -> None:
        """Closes the records and unlocks the workdir."""
        self._open_files.close()
