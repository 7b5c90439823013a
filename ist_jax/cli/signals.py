"""SIGINT and SIGTERM end a command. If it is training, it saves first."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 3  # exit status


def end_at_once() -> None:
    """Makes both signals end this process, even during an import that swallows exceptions."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{signal.Signals(number).name}: ended before the command began\n".encode())
    os._exit(STOPPED)


class Signals:
    """A context manager that handles both signals. A second signal ends the command at once."""

    def __init__(self) -> None:
        self._deferred, self._received = False, False
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
        if self._received or not self._deferred:
            raise KeyboardInterrupt(
                f"{signal.Signals(number).name}: ended at once; committed checkpoints are kept"
            )
        self._received = True
        print(
            f"{signal.Signals(number).name}: saving after this round; a second signal ends at once",
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
