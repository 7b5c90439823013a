"""From a stream of tokens to a `Dataset` of windows.

The last tokens are the test split, a share of `validation_fraction`. As many tokens before them are
the validation split, and all others the training split. A window is `context` tokens and the next
one. Windows of a split follow each other without gaps: every token after the first is predicted
once, up to an incomplete last window, which is left out. No window crosses from one split into
another.

Streams of up to 1 GiB are copied to the devices once, and batches gather windows from them there.
Longer ones stay in their file, and the windows of a round are read while the round before it
trains; the batches are the same.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ist_jax.core.sample_order import Shards
from ist_jax.data.base import Dataset
from ist_jax.data.raw import DataError
from ist_jax.data.rows import blocks
from ist_jax.data.streamed import Columns, Rows, Streamed
from ist_jax.data.tokens import RawTokens, TokenOptions

LARGEST = 1 << 30  # bytes of a stream that is copied to the devices


def make_token_dataset(
    raw: RawTokens,
    name: str,
    *,
    source: str,
    options: TokenOptions,
    validation_fraction: float,
    shards: Callable[[np.ndarray, int], Shards],
    largest: int = LARGEST,
) -> Dataset:
    """The data set of `raw`.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      options: the length of windows.
      validation_fraction: share of the tokens for validation, and again for the test; below 1/2.
      shards: (labels of the training examples, num_workers) -> Shards. Windows have no labels, so
        it is given zeros.
      largest: bytes of a stream above which it stays in its file.

    Raises:
      DataError: a split has no window.
    """
    splits = _splits(raw.token_T, options.context, validation_fraction, source)
    num_train = _num_windows(splits["train"], options.context)
    about: dict[str, Any] = dict(
        name=name,
        num_classes=raw.num_tokens,
        mean=0.0,
        std=1.0,
        fingerprint=_fingerprint(raw, splits, options),
        shards=functools.partial(shards, np.zeros(num_train, np.int32)),
        task="next_token",
        example_shape=(options.context,),
        dtype="int32",
        vocabulary=raw.vocabulary,
        bytes_per_token=raw.bytes_per_token,
    )
    if raw.token_T.nbytes > largest:
        columns = {part: _columns(split, options.context) for part, split in splits.items()}
        return Streamed(**columns, **about)
    starts = {part: {"start": _starts(split, options.context)} for part, split in splits.items()}
    common = {part: {"tokens": _as_stored(split)} for part, split in splits.items()}
    return Dataset(**starts, common=common, **about)


def _splits(
    token_T: np.ndarray, context: int, fraction: float, source: str
) -> dict[str, np.ndarray]:
    held_out = round(fraction * len(token_T))
    first, second = len(token_T) - 2 * held_out, len(token_T) - held_out
    ends = {"train": (0, max(first, 0)), "validation": (first, second)}
    ends["test"] = (second, len(token_T))
    for part, (begin, end) in ends.items():
        if end - begin <= context:
            raise DataError(
                f"{source}: a window is data.context={context} tokens and one more, and the "
                f"{part} split has {end - begin} of {len(token_T)} tokens: use a shorter context, "
                f"more text, or another data.validation_fraction than {fraction}"
            )
    return {part: token_T[begin:end] for part, (begin, end) in ends.items()}


def _num_windows(token_T: np.ndarray, context: int) -> int:
    return (len(token_T) - 1) // context


def _starts(token_T: np.ndarray, context: int) -> np.ndarray:
    return context * np.arange(_num_windows(token_T, context), dtype=np.int32)


def _as_stored(token_T: np.ndarray) -> np.ndarray:
    """The tokens in a dtype that devices have."""
    dtype = token_T.dtype if token_T.dtype in (np.uint8, np.uint16) else np.int32
    return np.asarray(token_T, dtype)


def _columns(token_T: np.ndarray, context: int) -> Columns:
    """Rows of the stream, each wide enough for a window and all its shifts."""
    width = min(2 * context, len(token_T))

    def read(index_N: np.ndarray) -> Rows:
        start_N = context * np.asarray(index_N, np.int64)
        begin_N = np.minimum(start_N, len(token_T) - width)
        row_NxW = np.stack([_as_stored(token_T[begin : begin + width]) for begin in begin_N])
        return {"row": row_NxW, "start": (start_N - begin_N).astype(np.int32)}

    return Columns(_num_windows(token_T, context), read, ("row", "start"))


def _fingerprint(raw: RawTokens, splits: dict[str, np.ndarray], options: TokenOptions) -> str:
    lengths = [len(split) for split in splits.values()]
    digest = hashlib.sha256(f"{lengths} {options.context} {raw.vocabulary}".encode())
    for block in blocks(raw.token_T, "fingerprint"):
        digest.update(np.ascontiguousarray(block, np.int32).tobytes())
    return digest.hexdigest()
