"""Images of varied sizes from a prepared TFDS builder, such as imagenet2012, decoded while reading.

The host cuts out an image's largest central square and resizes it to 8/7 of the model's side (256
for 224, the usual 'shorter side to 256'). The result depends on the example alone, not on the
round, so a resumed run is exact. Like all augmentation (`ist_jax.tasks.augment`), the crop is drawn
on the device, from the key of the local step.
"""

import hashlib
import io
import os
import pathlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.raw import DataError

_AT_ONCE = 256  # encoded files in memory at once, besides the decoded images
_THREADS = min(32, os.cpu_count() or 1)
TEST_SPLITS = {"imagenet2012": "validation"}  # of builders whose 'test' has no labels


def decode(content: bytes, side: int, channels: int) -> np.ndarray:
    """uint8[side, side, channels]: the central square of an image file, resized.

    Raises:
      Exception: whatever Pillow raises for a file that is no image.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (side, side))  # a large JPEG is decoded at a fraction of its size
        image = image.convert("L" if channels == 1 else "RGB")
        short = min(image.size)
        left, top = ((length - short) / 2 for length in image.size)
        box = left, top, left + short, top + short
        square = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square).reshape(side, side, channels)


class Records:
    """The images and labels of a split. Every record is read once for both.

    Args:
      source: a TFDS data source whose images are not decoded.
      name: of the split, for errors.
      side: of the resized images, in pixels.
      channels: of an image, 1 or 3.
      classes: number of classes.
      lock: held while reading, as splits may share one reader.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        side: int,
        channels: int,
        classes: int,
        lock: threading.Lock,
    ):
        self._source, self._name, self._lock = source, name, lock
        self._shape, self._classes = (side, side, channels), classes

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """{'x': uint8[N, side, side, channels], 'y': int32[N]} of these rows.

        Raises:
          DataError: a record or an image cannot be read, or a label is out of range.
        """
        images = np.empty((len(rows), *self._shape), np.uint8)
        labels = np.empty(len(rows), np.int32)
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(rows), _AT_ONCE):
                wanted = [int(row) for row in rows[start : start + _AT_ONCE]]
                files, labels[start : start + _AT_ONCE] = self._read_records(wanted)
                for i, image in enumerate(pool.map(self._decode, wanted, files), start):
                    images[i] = image
        return {"x": images, "y": labels}

    def _read_records(self, rows: list[int]) -> tuple[list[bytes], list[int]]:
        """Image files and labels of these rows."""
        try:
            with self._lock:
                records = self._source.__getitems__(rows)
            files = [record["image"] for record in records]
            labels = [int(record["label"]) for record in records]
        except MemoryError:
            raise
        except Exception as error:  # what a damaged file raises depends on its reader
            raise DataError(
                f"{self._name}: examples from {rows[0]} on cannot be read ({first_line(error)}); "
                "prepare it again"
            ) from error
        for row, label in zip(rows, labels):
            if not 0 <= label < self._classes:
                raise DataError(
                    f"{self._name}: labels are from 0 to {self._classes - 1}; "
                    f"example {row} has {label}"
                )
        return files, labels

    def _decode(self, row: int, content: bytes) -> np.ndarray:
        try:
            return decode(content, self._shape[0], self._shape[2])
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises more than OSError, also for too many pixels
            raise DataError(
                f"{self._name}: example {row} is no image that can be read ({first_line(error)}): "
                "damaged, or too large"
            ) from error


def fingerprint(folder: pathlib.Path, side: int) -> str:
    """SHA-256 of the builder's description, every file's name and length, and the images' side."""
    digest = hashlib.sha256(f"side {side}\n".encode())
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()
