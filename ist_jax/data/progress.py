"""A progress bar for loading that takes more than two seconds, on a terminal."""

import contextlib
import pathlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
_OPTIONS: dict[str, Any] = {
    "delay": 2,
    "leave": False,
    "disable": None,
}  # None: no bar but on a terminal


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar called `what` from the third second on."""
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, **_OPTIONS)


@contextlib.contextmanager
def busy(what: str, holds_python: bool = False) -> Iterator[None]:
    """The seconds of one long call, from the third on; of one that holds Python's lock against threads, its name at once."""
    done = threading.Event()

    def show() -> None:
        from tqdm import tqdm

        if not done.wait(_OPTIONS["delay"]):
            with tqdm(bar_format=f"{what}: {{elapsed}}", leave=False) as bar:
                bar.start_t -= _OPTIONS["delay"]
                while not done.wait(0.5):
                    bar.refresh()

    thread = threading.Thread(target=show, daemon=True)
    if sys.stderr.isatty() and holds_python:
        print(f"{what} ...", file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The file `path`, opened to read bytes, with a bar over what was read of it from the third second on."""
    from tqdm import tqdm

    with path.open("rb") as file:
        options = dict(total=path.stat().st_size, desc=f"reading {path.name}", **_OPTIONS)
        with tqdm.wrapattr(file, "read", **options) as counted:
            yield counted
