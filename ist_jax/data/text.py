"""Text: a UTF-8 file, or a folder of .txt files in the order of their names.

A token is a character, or a byte. Characters are numbered in the order of their code points.
"""

import pathlib

import numpy as np

from ist_jax.data.raw import DataError
from ist_jax.data.tokens import RawTokens, TokenOptions


def load(directory: str, dataset: str, options: TokenOptions) -> RawTokens:
    """Reads the text in `directory`. Bytes of a single file stay in the file.

    Raises:
      DataError: there is no text, it is empty, or it is not UTF-8 and tokens are characters.
    """
    del dataset
    files = _files(pathlib.Path(directory))
    if options.vocabulary == "bytes":
        maps = [np.memmap(file, np.uint8, "r") for file in files]
        token_T = maps[0] if len(maps) == 1 else np.concatenate(maps)
        return RawTokens(token_T, 256, bytes_per_token=1.0)
    return _characters("".join(map(_text, files)))


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and file.stat().st_size]
    if not files:
        raise DataError(
            f"data.dir={str(path)!r} is neither a file with text nor a folder of .txt files: name "
            "one"
        )
    return files


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 at byte {error.start}: convert it, or use data.vocabulary=bytes"
        ) from error


def _characters(text: str) -> RawTokens:
    codes_T = np.frombuffer(text.encode("utf-32-le"), "<u4")
    codes_V, token_T = np.unique(codes_T, return_inverse=True)
    dtype = np.uint8 if len(codes_V) <= 256 else np.int32
    vocabulary = "".join(map(chr, codes_V))
    bytes_per_token = len(text.encode("utf-8")) / len(text)
    return RawTokens(token_T.astype(dtype), len(codes_V), vocabulary, bytes_per_token)


def encode(text: str, vocabulary: str) -> np.ndarray:
    """int32[T]: the tokens of `text`; bytes if `vocabulary` is ''.

    Raises:
      ValueError: a character is not in the vocabulary.
    """
    if not vocabulary:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
    if unknown := sorted(set(text) - set(vocabulary)):
        raise ValueError(f"the model knows the characters {vocabulary!r}, but not {unknown}")
    return np.array([vocabulary.index(character) for character in text], np.int32)


def decode(token_T: np.ndarray, vocabulary: str) -> str:
    """The text of tokens, as `encode` numbers them."""
    if not vocabulary:
        return bytes(np.asarray(token_T).tolist()).decode("utf-8", errors="replace")
    return "".join(vocabulary[token] for token in np.asarray(token_T).tolist())
