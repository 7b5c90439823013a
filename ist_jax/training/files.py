"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def with_path(path: pathlib.Path) -> Iterator[None]:
    """What writes `path`: the error of a full disk names no file by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: pathlib.Path, text: str) -> None:
    """All of `text` or nothing, whenever the process or the machine dies."""
    unfinished = path.with_name(
        f"{path.name}.{os.getpid()}.tmp"
    )  # two sweeps may write their table into one folder
    try:
        with with_path(path):
            with unfinished.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # it may be what fills the disk
        raise
    flush_folder(path.parent)


def flush_folder(folder: pathlib.Path) -> None:
    """Makes new names in `folder` survive the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
