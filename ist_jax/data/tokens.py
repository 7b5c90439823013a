"""Streams of tokens: a .npy file of integers, or a raw .bin file. For text, see `text`."""

import pathlib
from typing import NamedTuple

import numpy as np

from ist_jax.core.errors import first_line
from ist_jax.data.raw import DataError
from ist_jax.data.rows import blocks

DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")  # of a .bin file
VOCABULARIES = ("characters", "bytes")


class TokenOptions(NamedTuple):
    """How a text is read.

    Attributes:
      context: tokens that a model reads at once.
      vocabulary: of a text, 'characters' or 'bytes'.
    """

    context: int = 128
    vocabulary: str = "characters"


class RawTokens(NamedTuple):
    """The tokens that a source reads.

    Attributes:
      token_T: integers [T], in the order of the text. They may stay in their file.
      num_tokens: V, the size of the vocabulary.
      vocabulary: the characters that tokens stand for, in order; '' if they are not characters.
      bytes_per_token: bytes of text per token; 0 if unknown.
    """

    token_T: np.ndarray
    num_tokens: int
    vocabulary: str = ""
    bytes_per_token: float = 0.0


def load(directory: str, dataset: str, options: TokenOptions) -> RawTokens:
    """Maps the file `directory` into memory; `dataset` is the dtype of a .bin file, or ''.

    Raises:
      DataError: the file is missing, empty or damaged, or its entries are not tokens.
    """
    del options
    path = pathlib.Path(directory)
    if path.suffix not in (".npy", ".bin"):
        raise DataError(f"data.dir must name a .npy or .bin file of tokens, not {directory!r}")
    if path.suffix == ".npy" and dataset:
        raise DataError(f"data.dataset={dataset!r} is the dtype of a .bin file: leave it out")
    if path.suffix == ".bin" and (dataset or "uint16") not in DTYPES:
        raise DataError(f"data.dataset, the dtype of {path}, is one of {DTYPES}, not {dataset!r}")
    try:
        if path.suffix == ".npy":
            token_T = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            token_T = np.memmap(path, np.dtype(dataset or "uint16").newbyteorder("<"), "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as tokens ({first_line(error)})") from error
    return RawTokens(token_T, _num_tokens(token_T, path))


def _num_tokens(token_T: np.ndarray, path: pathlib.Path) -> int:
    """V: the largest token plus 1. Raises DataError if the entries are not tokens."""
    if token_T.ndim != 1 or not np.issubdtype(token_T.dtype, np.integer) or not len(token_T):
        raise DataError(
            f"{path}: tokens are integers [T], not {token_T.dtype}{list(token_T.shape)}: save one "
            "stream of them"
        )
    low, high = 0, 0
    for block in blocks(token_T):
        low, high = min(low, int(block.min())), max(high, int(block.max()))
    if low < 0 or high > np.iinfo(np.int32).max - 1:
        raise DataError(f"{path}: tokens are from 0 to 2**31 - 2, but these are {low} to {high}")
    return high + 1
