"""Google Speech Commands from its native folders: one per word, wav files named SPEAKER_nohash_N.wav.

The task of IST's speech experiments (Yuan et al., PVLDB 2022): log-mel features of 128 bands x 32 frames; test
speakers are those whose hash falls into the first 20 % (Warden, arXiv 1804.03209), validation speakers are
taken from the others; clips that are not 16,000 samples long are left out, as the authors do, and counted.
A subset that was drawn from the published test list has no other speakers: data.dataset='resplit' hashes them
anew.
"""

import contextlib
import hashlib
import os
import pathlib
import wave
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ist_jax.data.mel import BANDS, FRAME, HOP, RATE, log_mel
from ist_jax.data.npz import read_npz
from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import RowStore

_CLIP = RATE  # samples: one second
_HEADER = 44  # bytes of a wav file before its samples, at least
_TEST_PERCENT = 20.0
_LARGEST = 2**27 - 1  # of Warden's which_set
_ARRAYS = ("x", "y", "speaker", "dropped")
_SALTS = {"": "", "resplit": "resplit "}
_FEATURES = (
    f"log_mel 1, {RATE} Hz, {FRAME}/{HOP}, {BANDS} bands"  # a change of the features changes this
)


def speaker(file: pathlib.Path) -> str:
    """'0a7c2a8d' of '0a7c2a8d_nohash_0.wav'."""
    return file.name.split("_nohash_")[0]


def is_test_speaker(name: str, salt: str = "") -> bool:
    """Whether all clips of this speaker are test clips; the same for ever, whatever else is in the folder."""
    number = int(hashlib.sha1((salt + name).encode()).hexdigest(), 16) % (_LARGEST + 1)
    return number * 100.0 / _LARGEST < _TEST_PERCENT


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(file), "rb") as opened:
            found = opened.getnchannels(), opened.getsampwidth(), opened.getframerate()
            if found != (1, 2, RATE):
                raise DataError(
                    f"{file}: clips have one channel, 2 bytes a sample, {RATE} Hz; this one has {found}"
                )
            yield opened
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(
            f"{file}: not a wav file ({str(error) or 'it is cut off'}); fetch it again"
        ) from error


def _check_length(file: pathlib.Path, promised: int, follow: int) -> None:
    if follow < promised:
        raise DataError(
            f"{file}: cut off: its header promises {promised} samples, and {follow} follow; fetch it again"
        )


def read_clip(file: pathlib.Path) -> np.ndarray:
    """float32[samples] in [-1, 1).

    Raises:
      DataError: no wav file, or not of 16 bits, one channel, 16 kHz.
    """
    with _opened(file) as opened:
        promised = opened.getnframes()
        content = opened.readframes(promised)
    _check_length(file, promised, len(content) // 2)
    return np.frombuffer(content, "<i2").astype(np.float32) / 2**15


def _check_headers(files: Sequence[tuple[pathlib.Path, int]]) -> None:
    """What is wrong with any clip is said before hours of others are computed."""
    for file, _ in progress(files, "headers of clips"):
        with _opened(file) as opened:
            _check_length(file, opened.getnframes(), (file.stat().st_size - _HEADER) // 2)


def _words(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise DataError(
            f"data.dir={str(folder)!r} is not a folder; speech_commands needs one with a folder per word"
        )
    words = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    words = [path for path in words if any(path.glob("*.wav"))]
    if len(words) < 2:
        raise DataError(
            f"{folder}: a folder per word with its wav files, at least two words; found {len(words)}"
        )
    return words


def _compute(files: Sequence[tuple[pathlib.Path, int]]) -> dict[str, np.ndarray]:
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
    return {name: np.array(values) for name, values in kept.items()} | {
        "dropped": np.array(dropped)
    }


def _cache_file(folder: pathlib.Path, files: Sequence[tuple[pathlib.Path, int]]) -> pathlib.Path:
    """Named by a fingerprint of the features' definition and of every file's name, size and time of change."""
    digest = hashlib.sha256(_FEATURES.encode())
    for file, _ in files:
        try:
            found = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error
        digest.update(f"{file.relative_to(folder)} {found.st_size} {found.st_mtime_ns}\n".encode())
    home = os.environ.get("IST_CACHE_DIR") or os.path.expanduser("~/.cache/ist_jax")
    return pathlib.Path(home) / f"speech_commands-{digest.hexdigest()[:32]}.npz"


def _cached(
    cache: pathlib.Path, files: Sequence[tuple[pathlib.Path, int]]
) -> dict[str, np.ndarray]:
    try:
        return read_npz(cache, _ARRAYS, "speech_commands", stored=("x",))
    except Exception:  # no file, or a damaged one: it is only a cache
        found = _compute(files)
    with contextlib.suppress(
        OSError, DataError
    ):  # no room, no permission: computed again next time
        _store(cache, found)
        return read_npz(cache, _ARRAYS, "speech_commands", stored=("x",))
    return found


def _store(cache: pathlib.Path, found: Mapping[str, np.ndarray]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_name(f"{cache.stem}.{os.getpid()}.npz")
    try:
        np.savez(unfinished, **found)
        unfinished.replace(cache)
    finally:
        unfinished.unlink(missing_ok=True)


def load(directory: str, dataset: str) -> Raw:
    """Features float32[N, 128, 32] of the clips in `directory`.

    They are cached in IST_CACHE_DIR, by default ~/.cache/ist_jax.

    Args:
      directory: a folder per word.
      dataset: '' for the published split of speakers, 'resplit' for another one of the same kind.

    Raises:
      DataError: no such folder, fewer than two words, a file that is no 16 kHz wav clip, or speakers of one part only.
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
    found = _cached(_cache_file(folder, files), files)
    if not len(found["x"]):
        raise DataError(
            f"{folder}: none of its {len(files)} clips is one second long ({_CLIP} samples), as those of this set are"
        )
    test_N = np.array([is_test_speaker(name, _SALTS[dataset]) for name in found["speaker"]], bool)
    if test_N.all() or not test_N.any():
        only = "test" if test_N.all() else "training"
        raise DataError(
            f"{folder}: all {len(test_N)} clips are of {only} speakers of this split: use data.dataset=resplit"
        )
    (x, y), train_N = (found["x"], found["y"]), ~test_N
    notes = {"clips left out for their length": int(found["dropped"])}
    return Raw(
        RowStore(x, np.flatnonzero(train_N)),
        y[train_N],
        x[test_N],
        y[test_N],
        found["speaker"][train_N],
        notes,
    )
