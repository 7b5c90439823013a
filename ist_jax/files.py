"""Files that are there whole or not at all."""

import os
import pathlib


def write_whole(path: pathlib.Path, text: str) -> None:
    """All of `text` or nothing, whenever the process or the machine dies."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
