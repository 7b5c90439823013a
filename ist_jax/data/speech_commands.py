"""Google Speech Commands: a folder per word, with wav files named SPEAKER_nohash_N.wav.

This is the task of IST's speech experiments (Yuan et al., PVLDB 2022): log-mel features of 128
bands x 32 frames. A hash of the speaker's name decides whether a clip is a test clip; about 20 % of
the speakers are test speakers (Warden, arXiv 1804.03209). Validation speakers are taken from the
others. Clips that are not 16,000 samples long are left out, as in the authors' release, and
counted. So are files that are not clips: those whose names begin with a dot (macOS writes some) or
do not end in .wav, and those whose content is not a wav file. A subset drawn from the published
test list has only test speakers; data.dataset='resplit' hashes its speakers differently.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ist_jax.data.mel import BANDS, FRAME, HOP, RATE, log_mel
from ist_jax.data.npz import read_npz
from ist_jax.data.plausible import listed
from ist_jax.data.progress import progress
from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import RowStore
from ist_jax.data.wav import WavHeader, is_wav, read_header

_CLIP = RATE  # samples: one second
_TEST_PERCENT = 20.0
_LARGEST = 2**27 - 1  # of Warden's which_set
_ARRAYS = ("x", "y", "speaker", "dropped")
_SKIPPED = "skipped"  # names of the files that are not wav files; older caches lack it
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
      DataError: there is no such folder, it has fewer than two words, no file of a word is a wav
        file, a wav file is damaged or not a 16 kHz clip of one channel, no clip is one second long,
        or all speakers are in one split.
    """
    if dataset not in _SALTS:
        raise DataError(
            f"data.dataset={dataset!r} is '' (the published split of speakers) or 'resplit'"
        )
    folder = pathlib.Path(directory)
    listing = _listing(folder)
    files = [(file, label) for label, clips in enumerate(listing.words) for file in clips]
    arrays = _cached_arrays(_cache_file(folder, files), files)
    if not len(arrays["x"]):
        raise DataError(
            f"{folder}: clips are one second long ({_CLIP} samples), and none of these "
            f"{len(files)} is: cut or pad them"
        )
    raw = _split_by_speaker(arrays, _SALTS[dataset], folder)
    return _with_counts(raw, listing, arrays, folder)


class _Listing(NamedTuple):
    """The files in a folder of words, judged by their names.

    Attributes:
      words: the clips of every word, sorted.
      others: number of other files in the folders of words.
      without: names of folders without a clip.
    """

    words: list[list[pathlib.Path]]
    others: int
    without: list[str]


def _listing(folder: pathlib.Path) -> _Listing:
    if not folder.is_dir():
        raise DataError(
            f"data.dir={str(folder)!r} is not a folder; "
            "speech_commands needs one with a folder per word"
        )
    words: list[list[pathlib.Path]] = []
    others, without = 0, []
    for word in sorted(path for path in folder.iterdir() if path.is_dir()):
        if word.name[0] in "._":
            continue
        files = [path for path in word.iterdir() if not path.is_dir()]
        clips = sorted(path for path in files if _is_clip(path.name))
        others += len(files) - len(clips)
        words += [clips] if clips else []
        without += [] if clips else [word.name]
    if len(words) < 2:
        raise DataError(
            f"{folder}: at least two words have a folder with wav files, and here are "
            f"{len(words)}: give the folder above those of the words"
        )
    return _Listing(words, others, without)


def _is_clip(name: str) -> bool:
    return name.lower().endswith(".wav") and not name.startswith(".")


def _with_counts(
    raw: Raw, listing: _Listing, arrays: Mapping[str, np.ndarray], folder: pathlib.Path
) -> Raw:
    """`raw` with the numbers of files read and skipped, and warnings about the skipped ones."""
    skipped = arrays.get(_SKIPPED, np.zeros(0, str))
    notes = {
        "clips read": len(arrays["x"]),
        "clips left out for their length": int(arrays["dropped"]),
        "files skipped": listing.others + len(skipped),
    }
    warnings = []
    if listing.without:
        warnings.append(
            f"{folder.name}: there is no wav file in {listed(listing.without, 'folder')}, left out "
            "as a word: convert its clips to wav, or remove it"
        )
    if len(skipped):
        warnings.append(
            f"{folder.name}: the content is that of no wav file in "
            f"{listed(skipped.tolist(), 'file')}, skipped: fetch it again, or remove it"
        )
    return raw._replace(notes=notes, warnings=tuple(warnings))


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
    with _open(file) as opened:
        header = _header(file, opened)
        if header is None:
            raise DataError(f"{file}: not a wav file; fetch it again")
        opened.seek(header.begin)
        content = opened.read(header.announced * header.sample_bytes)
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
    )


@contextlib.contextmanager
def _open(file: pathlib.Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error


def _header(file: pathlib.Path, opened: BinaryIO) -> WavHeader | None:
    """The header of a clip; None if it is not a wav file. Raises DataError if it cannot be used."""
    if not is_wav(opened):
        return None
    try:
        header = read_header(opened)
    except ValueError as error:
        raise DataError(f"{file}: damaged wav file: {error}; fetch it again") from error
    if header[:4] != (1, 2, RATE, True):
        what = header[:3] if header.is_pcm else "samples that are compressed, or no integers"
        raise DataError(
            f"{file}: clips have one channel, 2 bytes a sample, {RATE} Hz; this one has {what}: "
            f"convert it, such as by sox with -c 1 -b 16 -r {RATE} -e signed"
        )
    if header.following < header.announced:
        raise DataError(
            f"{file}: truncated: its header announces {header.announced} samples, and "
            f"{header.following} follow; fetch it again"
        )
    return header


def _wav_files(files: _Files) -> tuple[_Files, list[str]]:
    """(clips, names of files that are not wav files), judged by their headers.

    It runs first, since computing features takes minutes.

    Raises:
      DataError: a clip cannot be used, or no file of a word is a wav file.
    """
    clips: list[tuple[pathlib.Path, int]] = []
    skipped: list[tuple[pathlib.Path, int]] = []
    for file, label in progress(files, "headers of clips"):
        with _open(file) as opened:
            (skipped if _header(file, opened) is None else clips).append((file, label))
    known = {label for _, label in clips}
    for file, label in skipped:
        if label not in known:
            raise DataError(
                f"{file.parent}: none of its files is a wav file, {file.name} neither; fetch them "
                "again"
            )
    return clips, [f"{file.parent.name}/{file.name}" for file, _ in skipped]


def _compute(files: _Files) -> dict[str, np.ndarray]:
    """Features, labels and speakers of all clips of the right length; names of skipped files."""
    clips, skipped = _wav_files(files)
    kept: dict[str, list] = {"x": [], "y": [], "speaker": []}
    dropped = 0
    for file, label in progress(clips, "log-mel features"):
        clip = read_clip(file)
        if len(clip) != _CLIP:
            dropped += 1
            continue
        kept["x"].append(log_mel(clip))
        kept["y"].append(label)
        kept["speaker"].append(speaker(file))
    arrays = {name: np.array(values) for name, values in kept.items()}
    return arrays | {"dropped": np.array(dropped), _SKIPPED: np.array(skipped, str)}


def _cache_file(folder: pathlib.Path, files: _Files) -> pathlib.Path:
    """Its name is a digest of the features' definition and every file's name, size and mtime."""
    digest = hashlib.sha256(_FEATURES.encode())
    for file, _ in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error
        digest.update(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cache = os.path.expanduser(os.environ.get("IST_CACHE_DIR") or "~/.cache/ist_jax")
    return pathlib.Path(cache) / f"speech_commands-{digest.hexdigest()[:32]}.npz"


def _cached_arrays(cache: pathlib.Path, files: _Files) -> dict[str, np.ndarray]:
    options: dict[str, Any] = dict(stored=("x",), optional=(_SKIPPED,))
    try:
        return read_npz(cache, _ARRAYS, "speech_commands", **options)
    except Exception:  # no file, or a damaged one: computed again
        arrays = _compute(files)
    with contextlib.suppress(OSError, DataError):  # no space or no permission: not cached
        _save(cache, arrays)
        return read_npz(cache, _ARRAYS, "speech_commands", **options)
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
