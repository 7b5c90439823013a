"""Files that are written completely or not at all, and JSON that every parser accepts."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn


def json_text(content: Any, **options: Any) -> str:
    """`content` as JSON; options are those of `json.dumps`.

    Raises:
      ValueError: a number is nan or infinite, which JSON does not have; the message says where.
    """
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError as error:
        place = next(_nonfinite(content), str(error))
        raise ValueError(f"JSON has finite numbers only, and {place}") from error


def _nonfinite(content: Any, name: str = "") -> Iterator[str]:
    """A text such as 'test/loss is nan' for every number that is not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{name.lstrip('/') or 'the content'} is {content}"
    parts = content.items() if isinstance(content, Mapping) else ()
    for key, part in enumerate(content) if isinstance(content, list | tuple) else parts:
        yield from _nonfinite(part, f"{name}/{key}")


def json_content(text: str | bytes) -> Any:
    """The content of JSON that `json_text` wrote. Raises ValueError for other text, such as NaN."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has finite numbers only, not {constant}")


@contextlib.contextmanager
def with_path(path: pathlib.Path) -> Iterator[None]:
    """Adds `path` to an OSError raised inside: the error of a full disk names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: pathlib.Path, text: str) -> None:
    """Replaces the content of `path` by `text`. A crash leaves the old content or the new.

    Raises:
      OSError: the file cannot be written; the error names `path`, which keeps its old content.
    """
    # named by process, as two sweeps may write the same table
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with with_path(path):
            _write_durably(unfinished, text)
            unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # it may be what fills the disk
        raise
    flush_folder(path.parent)


def _write_durably(path: pathlib.Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: pathlib.Path) -> None:
    """Returns once the names of the files in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
