"""A progress bar for loading that takes more than two seconds, on a terminal."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_OPTIONS: dict[str, Any] = {"delay": 2, "leave": False, "disable": None}  # None: no bar but on a terminal


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar called `what` from the third second on."""
    return tqdm(items, desc=what, total=total, **_OPTIONS)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The file `path`, opened to read bytes, with a bar over what was read of it from the third second on."""
    with path.open("rb") as file:
        options = dict(total=path.stat().st_size, desc=f"reading {path.name}", **_OPTIONS)
        with tqdm.wrapattr(file, "read", **options) as counted:
            yield counted
