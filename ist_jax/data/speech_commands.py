"""Google Speech Commands: a folder per word, with wav files named SPEAKER_nohash_N.wav.

This is the task of IST's speech experiments (Yuan et al., PVLDB 2022): log-mel features of 128
bands x 32 frames. A hash of the speaker's name decides whether a clip is a test clip; about 20 % of
the speakers are test speakers (Warden, arXiv 1804.03209). Validation speakers are taken from the
others. Clips that are not 16,000 samples long are left out, as in the authors' release, and
counted. A subset drawn from the published test list has only test speakers;
data.dataset='resplit' hashes its speakers differently.
"""

import contextlib
import hashlib
import os
import pathlib
import wave
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ist_jax.data.mel import BANDS, FRAME, HOP, RATE, log_mel
from ist_jax.data.npz import read_npz
from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import RowStore

_CLIP = RATE  # samples: one second
_MIN_HEADER = 44  # bytes of a wav file before its samples
_TEST_PERCENT = 20.0
_LARGEST = 2**27 - 1  # of Warden's which_set
_ARRAYS = ("x", "y", "speaker", "dropped")
_SALTS = {"": "", "resplit": "resplit "}
# part of the cache file's name; change it when the features change
_FEATURES = f"log_mel 1, {RATE} Hz, {FRAME}/{HOP}, {BANDS} bands"

_Files = Sequence[tuple[pathlib.Path, int]]  # (file, label)


def load(directory: str, dataset: str) -> Raw:
    """The clips in `directory`; inputs are their features, float32[N, 128, 32].

    Features are cached in IST_CACHE_DIR, by default ~/.cache/ist_jax.

    Args:
      directory: has a folder per word.
      dataset: '' for the published split of speakers, 'resplit' for another random one.

    Raises:
      DataError: there is no such folder, it has fewer than two words, a file is not a 16 kHz wav
        clip, no clip is one second long, or all speakers are in one split.
    """
    if dataset not in _SALTS:
        raise DataError(
            f"data.dataset={dataset!r} is '' (the published split of speakers) or 'resplit'"
        )
    folder = pathlib.Path(directory)
    files = [
        (file, label)
        for label, word in enumerate(_words(folder))
        for file in sorted(word.glob("*.wav"))
    ]
    arrays = _cached_arrays(_cache_file(folder, files), files)
    if not len(arrays["x"]):
        raise DataError(
            f"{folder}: clips are one second long ({_CLIP} samples), and none of these "
            f"{len(files)} is"
        )
    return _split_by_speaker(arrays, _SALTS[dataset], folder)


def speaker(file: pathlib.Path) -> str:
    """The speaker in a file's name: '0a7c2a8d' in '0a7c2a8d_nohash_0.wav'."""
    return file.name.split("_nohash_")[0]


def is_test_speaker(name: str, salt: str = "") -> bool:
    """Whether this speaker's clips are test clips, by Warden's hash of the salted name."""
    number = int(hashlib.sha1((salt + name).encode()).hexdigest(), 16) % (_LARGEST + 1)
    return number * 100.0 / _LARGEST < _TEST_PERCENT


def read_clip(file: pathlib.Path) -> np.ndarray:
    """float32[samples]: the samples of a clip, in [-1, 1).

    Raises:
      DataError: the file is not a wav file of 16 bits, one channel and 16 kHz, or is truncated.
    """
    with _open_clip(file) as clip:
        announced = clip.getnframes()
        content = clip.readframes(announced)
    _check_length(file, announced, len(content) // 2)
    return np.frombuffer(content, "<i2").astype(np.float32) / 2**15


def _split_by_speaker(arrays: Mapping[str, np.ndarray], salt: str, folder: pathlib.Path) -> Raw:
    is_test = np.array([is_test_speaker(name, salt) for name in arrays["speaker"]], bool)
    if is_test.all() or not is_test.any():
        only = "test" if is_test.all() else "training"
        raise DataError(
            f"{folder}: all {len(is_test)} clips are of {only} speakers of this split: "
            "use data.dataset=resplit"
        )
    x, y = arrays["x"], arrays["y"]
    return Raw(
        RowStore(x, np.flatnonzero(~is_test)),
        y[~is_test],
        x[is_test],
        y[is_test],
        arrays["speaker"][~is_test],
        {"clips left out for their length": int(arrays["dropped"])},
    )


def _words(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise DataError(
            f"data.dir={str(folder)!r} is not a folder; "
            "speech_commands needs one with a folder per word"
        )
    words = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    words = [path for path in words if any(path.glob("*.wav"))]
    if len(words) < 2:
        raise DataError(
            f"{folder}: at least two words have a folder with wav files, and here are {len(words)}"
        )
    return words


@contextlib.contextmanager
def _open_clip(file: pathlib.Path) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(file), "rb") as clip:
            kind = clip.getnchannels(), clip.getsampwidth(), clip.getframerate()
            if kind != (1, 2, RATE):
                raise DataError(
                    f"{file}: clips have one channel, 2 bytes a sample, {RATE} Hz; "
                    f"this one has {kind}"
                )
            yield clip
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(
            f"{file}: not a wav file ({str(error) or 'it is truncated'}); fetch it again"
        ) from error


def _check_length(file: pathlib.Path, announced: int, following: int) -> None:
    if following < announced:
        raise DataError(
            f"{file}: truncated: its header announces {announced} samples, and {following} follow; "
            "fetch it again"
        )


def _check_headers(files: _Files) -> None:
    """Raises DataError for a wrong clip, before features are computed, which takes minutes."""
    for file, _ in progress(files, "headers of clips"):
        with _open_clip(file) as clip:
            _check_length(file, clip.getnframes(), (file.stat().st_size - _MIN_HEADER) // 2)


def _compute(files: _Files) -> dict[str, np.ndarray]:
    """Features, labels and speakers of all clips of the right length."""
    _check_headers(files)
    kept: dict[str, list] = {"x": [], "y": [], "speaker": []}
    dropped = 0
    for file, label in progress(files, "log-mel features"):
        clip = read_clip(file)
        if len(clip) != _CLIP:
            dropped += 1
            continue
        kept["x"].append(log_mel(clip))
        kept["y"].append(label)
        kept["speaker"].append(speaker(file))
    arrays = {name: np.array(values) for name, values in kept.items()}
    return arrays | {"dropped": np.array(dropped)}


def _cache_file(folder: pathlib.Path, files: _Files) -> pathlib.Path:
    """Its name is a digest of the features' definition and every file's name, size and mtime."""
    digest = hashlib.sha256(_FEATURES.encode())
    for file, _ in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error
        digest.update(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cache = os.environ.get("IST_CACHE_DIR") or os.path.expanduser("~/.cache/ist_jax")
    return pathlib.Path(cache) / f"speech_commands-{digest.hexdigest()[:32]}.npz"


def _cached_arrays(cache: pathlib.Path, files: _Files) -> dict[str, np.ndarray]:
    try:
        return read_npz(cache, _ARRAYS, "speech_commands", stored=("x",))
    except Exception:  # no file, or a damaged one: computed again
        arrays = _compute(files)
    with contextlib.suppress(OSError, DataError):  # no space or no permission: not cached
        _save(cache, arrays)
        return read_npz(cache, _ARRAYS, "speech_commands", stored=("x",))
    return arrays


def _save(cache: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes the file completely or not at all."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_name(f"{cache.stem}.{os.getpid()}.npz")
    try:
        np.savez(unfinished, **arrays)
        unfinished.replace(cache)
    finally:
        unfinished.unlink(missing_ok=True)
