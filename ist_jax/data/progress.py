"""A progress bar for loading that takes more than two seconds, on a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar called `what` from the third second on."""
    return tqdm(items, desc=what, total=total, delay=2, leave=False, disable=None)
