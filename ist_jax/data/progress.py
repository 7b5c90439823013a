"""A progress bar on a terminal, for loading that takes longer than two seconds."""

import contextlib
import pathlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeVar, cast

T = TypeVar("T")
_DELAY = 2  # seconds before anything is shown
_OPTIONS: dict[str, Any] = {"delay": _DELAY, "leave": False, "disable": None}  # None: on terminals


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Yields `items`; a progress bar named `what` appears after 2 s."""
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, **_OPTIONS)


@contextlib.contextmanager
def busy(what: str, holds_gil: bool = False) -> Iterator[None]:
    """Shows the elapsed time of the code inside after 2 s.

    Args:
      what: the name that is shown.
      holds_gil: whether the code holds the GIL. No other thread could then show the time, so the
        name is printed at once.
    """
    if not sys.stderr.isatty():
        yield
    elif holds_gil:
        print(f"{what} ...", file=sys.stderr, flush=True)
        yield
    else:
        with _elapsed_time(what):
            yield


@contextlib.contextmanager
def _elapsed_time(what: str) -> Iterator[None]:
    done = threading.Event()

    def show() -> None:
        from tqdm import tqdm

        if done.wait(_DELAY):
            return
        with tqdm(bar_format=f"{what}: {{elapsed}}", leave=False) as bar:
            bar.start_t -= _DELAY
            while not done.wait(0.5):
                bar.refresh()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def open_with_progress(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens the file for reading bytes; a bar over the bytes read appears after 2 s."""
    from tqdm import tqdm

    with path.open("rb") as file:
        size, what = path.stat().st_size, f"reading {path.name}"
        with tqdm.wrapattr(file, "read", size, desc=what, **_OPTIONS) as counted:
            yield cast(BinaryIO, counted)
