"""Images of varied sizes from a prepared TFDS builder, such as imagenet2012, decoded and resized when they are read.

The host cuts an image's largest central square out and resizes it to 8/7 of the wanted side (256 for 224: the usual 'shorter
side to 256'), a function of the example alone; the crop is drawn on the device, in the local step and from its key, like all
augmentation (`ist_jax.tasks.augment`). So what is read does not depend on the round, and a resumed run is exact.
"""

import hashlib
import io
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ist_jax.data.raw import DataError, first_line

_AT_ONCE = 256  # files of images that are in memory beside the decoded ones
_THREADS = min(32, os.cpu_count() or 1)
TEST_SPLITS = {"imagenet2012": "validation"}  # of builders whose 'test' has no labels


def decoded(content: bytes, side: int, channels: int) -> np.ndarray:
    """uint8[side, side, channels]: the central square of an image file, resized.

    Raises:
      Exception: whatever Pillow raises of what is no image.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft(
            None, (side, side)
        )  # a JPEG is decoded at half or a quarter of its size where that is enough
        image = image.convert("L" if channels == 1 else "RGB")
        short = min(image.size)
        left, top = ((length - short) / 2 for length in image.size)
        square = image.resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short)
        )
    return np.asarray(square).reshape(side, side, channels)


class Records:
    """The images of a split and their labels; every record is read once for both.

    Args:
      source: of TFDS, its images undecoded.
      name: of the split, for errors.
      side: in pixels, to which images are resized.
      channels: of an image.
      classes: that labels count.
      lock: of readers that may be one.
    """

    def __init__(
        self,
        source: Sequence[Any],
        name: str,
        side: int,
        channels: int,
        classes: int,
        lock: threading.Lock,
    ):
        self._source, self._name, self._shape, self._lock = (
            source,
            name,
            (side, side, channels),
            lock,
        )
        self._classes = classes

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """{'x': uint8[N, side, side, channels], 'y': int32[N]} of these rows."""
        images, labels = (
            np.empty((len(rows), *self._shape), np.uint8),
            np.empty(len(rows), np.int32),
        )
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(rows), _AT_ONCE):
                wanted = [int(row) for row in rows[start : start + _AT_ONCE]]
                files, labels[start : start + _AT_ONCE] = self._found(wanted)
                for i, image in enumerate(pool.map(self._decoded, wanted, files), start):
                    images[i] = image
        return {"x": images, "y": labels}

    def _found(self, rows: list[int]) -> tuple[list[bytes], list[int]]:
        """Files and labels of these rows."""
        try:
            with self._lock:
                found = self._source.__getitems__(rows)
            files, labels = (
                [example["image"] for example in found],
                [int(example["label"]) for example in found],
            )
        except MemoryError:
            raise
        except Exception as error:  # a damaged file raises whatever its reader does
            reason = first_line(error)
            raise DataError(
                f"{self._name}: examples from {rows[0]} on cannot be read ({reason}); prepare it again"
            ) from error
        for row, label in zip(rows, labels):
            if not 0 <= label < self._classes:
                raise DataError(
                    f"{self._name}: labels are from 0 to {self._classes - 1}; example {row} has {label}"
                )
        return files, labels

    def _decoded(self, row: int, content: bytes) -> np.ndarray:
        try:
            return decoded(content, self._shape[0], self._shape[2])
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises more than OSError of what is damaged, or of more pixels than it trusts
            reason = first_line(error)
            said = f"{self._name}: example {row} is no image that can be read ({reason}): damaged, or too large"
            raise DataError(said) from error


def fingerprint(folder: pathlib.Path, side: int) -> str:
    """SHA-256 of the builder's description, of every file's name and length, and of the side that images are resized to."""
    digest = hashlib.sha256(f"side {side}\n".encode())
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()
