"""Log-mel features against their formula, and Speech Commands from its folders."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from wav_files import make_extensible, write_clip

from ist_jax import data
from ist_jax.data import DataError, speech_commands
from ist_jax.data.mel import (
    BANDS,
    FRAME,
    HOP,
    RATE,
    band_edges,
    filters,
    hz_to_mel,
    log_mel,
    mel_power,
    mel_to_hz,
)


def test_the_mel_scale_is_slaneys():
    assert hz_to_mel(np.array([0, 1000, 6400])).tolist() == pytest.approx([0, 15, 42])
    hz = np.linspace(0, 8000, 999)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, atol=1e-9)
    assert band_edges()[0] == 0 and band_edges()[-1] == pytest.approx(RATE / 2)


def test_every_filter_is_a_triangle_of_area_one():
    edge, fine = band_edges(), np.linspace(0, RATE / 2, 400_001)
    for band in (0, 1, 40, 100, BANDS - 1):
        low, middle, high = edge[band : band + 3]
        triangle = np.interp(fine, [low, middle, high], [0, 2 / (high - low), 0], left=0, right=0)
        assert np.trapezoid(triangle, fine) == pytest.approx(1, rel=1e-3)
        at_bins = np.interp(
            np.arange(FRAME // 2 + 1) * RATE / FRAME, [low, middle, high], [0, 2 / (high - low), 0]
        )
        np.testing.assert_allclose(filters()[band], at_bins, atol=1e-12)


@pytest.mark.parametrize("k", [16, 64, 200, 700])
def test_the_power_of_a_tone_is_that_of_the_formula(k):
    """A cosine at frequency k has, under a Hann window, (A F / 4)^2 at k
    and a quarter of it beside k.
    """
    amplitude = 0.3
    clip = amplitude * np.cos(2 * np.pi * k * np.arange(RATE) / FRAME)
    power = mel_power(clip)
    assert power.shape == (BANDS, 32) == (BANDS, 1 + RATE // HOP)
    spectrum = np.zeros(FRAME // 2 + 1)
    spectrum[k], spectrum[k - 1], spectrum[k + 1] = (
        np.array([1, 0.25, 0.25]) * (amplitude * FRAME / 4) ** 2
    )
    middle = power[:, 3:-3]  # frames without reflected samples
    np.testing.assert_allclose(
        middle, np.repeat((filters() @ spectrum)[:, None], middle.shape[1], 1), rtol=1e-6, atol=1e-6
    )
    assert (
        abs(
            hz_to_mel(np.array(k * RATE / FRAME))
            - hz_to_mel(band_edges()[1 + middle[:, 0].argmax()])
        )
        < np.diff(hz_to_mel(band_edges())).max()
    )


def test_decibels_are_below_the_loudest_and_stop_at_80():
    rng = np.random.default_rng(0)
    clip = np.concatenate([rng.normal(size=RATE // 2), np.zeros(RATE // 2)]) * 0.1
    features = log_mel(clip)
    assert features.dtype == np.float32 and features.shape == (BANDS, 32)
    assert features.max() == 0 and features.min() == -80
    np.testing.assert_allclose(log_mel(2 * clip), features, atol=1e-4)
    power = mel_power(clip)
    assert features[5, 3] == pytest.approx(10 * np.log10(power[5, 3] / power.max()), abs=1e-4)
    assert (log_mel(np.zeros(RATE)) == 0).all(), "silence is as loud as its loudest entry"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IST_CACHE_DIR", str(tmp_path / "cache"))
    for word in ("yes", "no"):
        for number in range(30):
            write_clip(tmp_path / "words" / word / f"{number:08x}_nohash_0.wav", seed=number)
    write_clip(tmp_path / "words" / "yes" / "00000001_nohash_1.wav", samples=RATE - 1)
    write_clip(tmp_path / "words" / "_background_noise_" / "noise.wav", samples=5 * RATE)
    return tmp_path / "words"


def test_splits_are_by_speaker_and_clips_of_other_lengths_are_counted(folder):
    loaded = data.load("speech_commands", str(folder), validation_fraction=0.25)
    assert loaded.train["x"].shape[1:] == (128, 32) and loaded.num_classes == 2
    assert sum(len(part["y"]) for part in (loaded.train, loaded.validation, loaded.test)) == 60
    assert loaded.notes == {
        "clips read": 60,
        "clips left out for their length": 1,
        "files skipped": 0,
    }
    assert not loaded.warnings
    rows = [
        {row.tobytes() for row in part["x"]}
        for part in (loaded.train, loaded.validation, loaded.test)
    ]
    # a speaker says yes and no with the same noise here: all of a speaker is in one part
    assert [len(part["y"]) for part in (loaded.train, loaded.validation, loaded.test)] == [
        2 * len(row) for row in rows
    ]
    speakers = {f"{number:08x}" for number in range(30)}
    assert len(rows[2]) == sum(map(speech_commands.is_test_speaker, speakers)) > 0


def test_the_test_speakers_are_those_of_the_published_rule():
    """Speakers of validation_list.txt and testing_list.txt (Warden's first and second 10 %)."""
    assert all(
        map(speech_commands.is_test_speaker, ("026290a7", "060cd039", "0c40e715", "0ea0e2f4"))
    )
    assert not any(map(speech_commands.is_test_speaker, ("00f0204f", "004ae714")))
    names = [f"{number:08x}" for number in range(20_000)]
    assert np.mean([speech_commands.is_test_speaker(name) for name in names]) == pytest.approx(
        0.2, abs=0.01
    )
    assert speech_commands.speaker(pathlib.Path("0c40e715_nohash_3.wav")) == "0c40e715"


def test_features_are_cached_until_a_file_changes_and_a_damaged_cache_is_replaced(
    folder, monkeypatch
):
    first = data.load("speech_commands", str(folder))
    calls = []
    compute = speech_commands._compute
    monkeypatch.setattr(
        speech_commands, "_compute", lambda files: calls.append(1) or compute(files)
    )
    assert data.load("speech_commands", str(folder)).fingerprint == first.fingerprint and not calls
    (cache,) = (folder.parent / "cache").iterdir()
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)
    assert (
        data.load("speech_commands", str(folder)).fingerprint == first.fingerprint
        and len(calls) == 1
    )
    write_clip(folder / "yes" / "000000ff_nohash_0.wav", seed=99)
    assert (
        data.load("speech_commands", str(folder)).fingerprint != first.fingerprint
        and len(calls) == 2
    )
    monkeypatch.setenv("IST_CACHE_DIR", "/proc/nowhere")
    data.load("speech_commands", str(folder))
    assert len(calls) == 3, "computed if it cannot be cached"


@pytest.mark.parametrize(
    "damage,says",
    [
        (
            lambda file: file.write_bytes(b"RIFF1234WAVEjunk"),
            "damaged wav file: it ends before its samples; fetch it again",
        ),
        (
            lambda file: os.truncate(file, 20_000),
            "truncated: its header announces 16000 samples, and 9978 follow",
        ),
        (lambda file: write_clip(file, rate=8000), "16000 Hz; this one has .1, 2, 8000"),
        (lambda file: write_clip(file, channels=2), "one channel"),
        (
            lambda file: (file.unlink(), file.symlink_to("nowhere")),
            "000003_nohash_0.wav: cannot be read .No such file",
        ),
        (lambda file: shutil.rmtree(file.parent), "at least two words .* and here are 1"),
        (lambda file: shutil.rmtree(file.parent.parent), "is not a folder"),
    ],
)
def test_broken_clips_and_folders_raise_an_error_before_any_feature_is_computed(
    folder, damage, says, monkeypatch
):
    damage(folder / "yes" / "00000003_nohash_0.wav")
    monkeypatch.setattr(
        speech_commands, "log_mel", lambda clip: pytest.fail("the headers of all clips come first")
    )
    with pytest.raises(DataError, match=says):
        data.load("speech_commands", str(folder))


@pytest.mark.parametrize("length", [None, 0x7FFFF000, 0xFFFFFFFF])
def test_extensible_headers_and_samples_from_a_pipe_are_read(folder, length):
    """Format tag 65534 was "damaged" before Python 3.12; a pipe has no length to announce."""
    before = data.load("speech_commands", str(folder))
    file = folder / "yes" / "00000003_nohash_0.wav"
    clip = speech_commands.read_clip(file)
    make_extensible(file, length=length)
    np.testing.assert_array_equal(speech_commands.read_clip(file), clip)
    assert data.load("speech_commands", str(folder)).fingerprint == before.fingerprint
    make_extensible(file, kind=3)  # floats
    with pytest.raises(DataError, match="this one has samples that are .* no integers: convert it"):
        speech_commands.read_clip(file)


def test_files_that_are_no_clips_are_skipped_and_counted(folder, monkeypatch):
    """macOS writes ._x.wav beside x.wav; a failed download is an HTML page called .wav."""
    plain = data.load("speech_commands", str(folder))
    (folder / "yes" / "._00000003_nohash_0.wav").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / "yes" / "README.txt").write_text("words")
    first = data.load("speech_commands", str(folder))
    assert first.fingerprint == plain.fingerprint and first.notes["files skipped"] == 2
    assert not first.warnings
    (folder / "no" / "000000aa_nohash_0.wav").write_bytes(b"<html>not found</html>")
    (folder / "no" / "000000ab_nohash_0.wav").write_bytes(b"")
    for _ in range(2):  # computed, then from the cache
        loaded = data.load("speech_commands", str(folder))
        assert loaded.fingerprint == plain.fingerprint
        assert loaded.notes["files skipped"] == 4 and loaded.notes["clips read"] == 60
        (warning,) = loaded.warnings
        assert "no wav file in files no/000000aa_nohash_0.wav, no/000000ab_nohash_0.wav" in warning
        monkeypatch.setattr(speech_commands, "_compute", lambda files: pytest.fail("cached"))


def test_a_word_whose_files_end_in_capitals_is_a_word(folder):
    plain = data.load("speech_commands", str(folder))
    for file in (folder / "no").iterdir():
        file.rename(file.with_suffix(".WAV"))
    assert data.load("speech_commands", str(folder)).fingerprint == plain.fingerprint


def test_a_folder_without_clips_is_said_and_a_word_without_any_wav_file_is_refused(folder):
    (folder / "up").mkdir()
    (folder / "up" / "00000001_nohash_0.mp3").write_bytes(b"ID3")
    (warning,) = data.load("speech_commands", str(folder)).warnings
    assert "there is no wav file in folder up, left out as a word" in warning
    (folder / "up" / "00000001_nohash_0.wav").write_bytes(b"ID3")
    with pytest.raises(DataError, match="up: none of its files is a wav file"):
        data.load("speech_commands", str(folder))


def test_features_that_an_earlier_version_cached_are_still_used(folder, monkeypatch):
    first = data.load("speech_commands", str(folder))
    (cache,) = (folder.parent / "cache").iterdir()
    with np.load(cache) as arrays:
        kept = {name: array for name, array in arrays.items() if name != "skipped"}
    cache.unlink()
    np.savez(cache, **kept)
    monkeypatch.setattr(speech_commands, "_compute", lambda files: pytest.fail("cached"))
    assert data.load("speech_commands", str(folder)).fingerprint == first.fingerprint


def test_a_set_without_clips_of_one_second_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("IST_CACHE_DIR", str(tmp_path / "cache"))
    for word in ("yes", "no"):
        write_clip(tmp_path / "set" / word / "00000001_nohash_0.wav", samples=RATE // 2)
    with pytest.raises(
        DataError, match="clips are one second long .16000 samples., and none of these 2 is"
    ):
        data.load("speech_commands", str(tmp_path / "set"))


def test_real_clips_are_read_and_split_by_speaker(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("IST_CACHE_DIR", str(tmp_path))
    clips = str(real_data / "speech_commands_mini")
    with pytest.raises(
        DataError,
        match="all 600 clips are of test speakers of this split: use data.dataset=resplit",
    ):
        data.load("speech_commands", clips)
    with pytest.raises(DataError, match="is '' .* or 'resplit'"):
        data.load("speech_commands", clips, "new")
    loaded = data.load("speech_commands", clips, "resplit", validation_fraction=0.2)
    dropped = loaded.notes["clips left out for their length"]
    assert loaded.notes["files skipped"] == 0 and not loaded.warnings
    assert (
        sum(len(part["y"]) for part in (loaded.train, loaded.validation, loaded.test)) + dropped
        == 600
    )
    assert loaded.num_classes == 10 and loaded.train["x"].shape[1:] == (128, 32)
    assert -80 <= loaded.train["x"].min() < loaded.train["x"].max() == 0
