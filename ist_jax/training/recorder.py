"""Passes the rows of a run to its loggers."""

from collections.abc import Sequence

import jax

from ist_jax.core.processes import OtherProcessError, all_succeed, is_first
from ist_jax.training.loggers import Logger, Row
from ist_jax.training.workdir import WorkdirError


class Recorder:
    """Passes every row to all loggers, on the first process alone.

    With several processes, rows wait for the next `flush`. If writing fails, all processes have to
    end; agreeing on that takes a collective, for which no round should wait.

    Args:
      loggers: of this run.

    Attributes:
      history: the rows so far.
    """

    def __init__(self, loggers: Sequence[Logger]):
        self.history: list[Row] = []
        self._loggers = list(loggers) if is_first() else []
        self._written = 0

    def add_first(self, logger: Logger, history: Sequence[Row]) -> None:
        """Puts a logger in front of the others. It has the rows of `history` already."""
        self._loggers = [logger, *self._loggers] if is_first() else []
        self.history, self._written = list(history), len(history)

    def log(self, row: Row) -> None:
        """Records the row of a round."""
        self.history.append(row)
        if jax.process_count() == 1:
            self._write()

    def flush(self) -> None:
        """Returns once all rows are written. All processes call it together.

        Raises:
          WorkdirError: another process could not write; the message says why.
        """
        try:
            all_succeed(self._write)
        except OtherProcessError as error:
            raise WorkdirError(str(error)) from error

    def _write(self) -> None:
        waiting, self._written = self.history[self._written :], len(self.history)
        for row in waiting:
            for logger in self._loggers:
                logger.log(row)

    def say(self, row: Row, text: str) -> None:
        """Passes a message to all loggers; `row` says where the run stands."""
        for logger in self._loggers:
            logger.log(row, text)
