"""Progress of loading: on a terminal, and only if it takes more than two seconds."""

import gzip
import io
import re
import struct
import time

import numpy as np
import pytest
from cases import also_slowly

from ist_jax.data.idx import read_idx
from ist_jax.data.progress import busy, open_with_progress, progress


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    "terminal,pause,shown",
    also_slowly([(True, 0.0, False)], [(True, 0.9, True), (True, 0.0, False), (False, 0.9, False)]),
)
def test_a_bar_is_shown_on_a_terminal_after_two_seconds(monkeypatch, terminal, pause, shown):
    screen = Screen(terminal)
    monkeypatch.setattr("sys.stderr", screen)
    seen = []
    for item in progress(range(4), "counting"):
        time.sleep(pause)
        seen.append(item)
    assert seen == [0, 1, 2, 3]
    assert ("counting" in screen.getvalue()) == shown


@pytest.mark.parametrize(
    "terminal,pause,shown",
    also_slowly([(True, 3.5, True)], [(True, 3.5, True), (True, 0.1, False), (False, 3.5, False)]),
)
def test_a_long_call_shows_its_elapsed_time(monkeypatch, terminal, pause, shown):
    screen = Screen(terminal)
    monkeypatch.setattr("sys.stderr", screen)
    with pytest.raises(KeyError), busy("cutting"):  # however it ends
        time.sleep(pause)
        raise KeyError
    assert (
        bool(re.search("cutting: 00:0[23]", screen.getvalue()))
        == ("cutting" in screen.getvalue())
        == shown
    )


def test_a_call_that_holds_the_gil_is_named_at_once(monkeypatch):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr", screen := Screen(terminal))
        with busy("cutting", holds_gil=True):
            assert screen.getvalue() == ("cutting ...\n" if terminal else "")


def test_a_slow_file_has_a_bar_over_its_bytes(monkeypatch, tmp_path):
    screen, path = Screen(True), tmp_path / "slow.bin"
    path.write_bytes(bytes(3000))
    monkeypatch.setattr("sys.stderr", screen)
    with open_with_progress(path) as file:
        for _ in range(3):
            time.sleep(0.9)
            assert len(file.read(1000)) == 1000
    assert "reading slow.bin" in screen.getvalue() and "/3.00k" in screen.getvalue().replace(
        "/2.93k", "/3.00k"
    )


def test_a_bar_does_not_change_what_is_read(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = b"\x00\x00\x08\x03" + struct.pack(">3I", *array.shape) + array.tobytes()
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "packed.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)
