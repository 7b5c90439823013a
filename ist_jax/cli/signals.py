"""SIGINT and SIGTERM end a command. If it is training, it saves first."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 3  # exit status


class Repeats:
    """Recognises repeats of a signal: some launchers send a signal twice, 0.5 ms apart.

    Args:
      clock: returns the time in seconds, which never goes backwards.
    """

    SECONDS = 1.0  # a signal within this time of another is its repeat

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._last = clock, -math.inf

    def is_one(self) -> bool:
        """Whether the signal that arrives now is a repeat of the one before it."""
        now = self._clock()
        if now - self._last < self.SECONDS:
            return True
        self._last = now
        return False


_OF_THIS_PROCESS = Repeats()


def end_at_once() -> None:
    """Makes both signals end this process, even during an import that swallows exceptions."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    if _OF_THIS_PROCESS.is_one():  # an earlier signal is ending the command already
        return
    os.write(2, f"{signal.Signals(number).name}: ended before the command began\n".encode())
    os._exit(STOPPED)


class Signals:
    """A context manager that handles both signals. A second signal ends the command at once.

    Args:
      repeats: decides whether a signal is a second one or a repeat of the first.
    """

    def __init__(self, repeats: Repeats = _OF_THIS_PROCESS) -> None:
        self._repeats, self._deferred, self._received = repeats, False, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        # Python allows signal handlers only in the main thread
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._repeats.is_one():
            return
        if self._received or not self._deferred:
            raise KeyboardInterrupt(
                f"{signal.Signals(number).name}: ended at once; committed checkpoints are kept"
            )
        self._received = True
        print(
            f"{signal.Signals(number).name}: saving after this round; another one, a second or "
            "more later, ends at once",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal is only noted, for `received`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def received(self) -> bool:
        """Whether a signal was noted."""
        return self._received
