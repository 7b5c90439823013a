"""Clips of the format of Speech Commands, with the headers that programs write."""

import struct
import wave

import numpy as np

from ist_jax.data.mel import RATE
from ist_jax.data.wav import _PCM_GUID


def write_clip(file, samples=RATE, rate=RATE, channels=1, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as opened:
        opened.setnchannels(channels)
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(
            np.random.default_rng(seed)
            .integers(-3000, 3000, samples * channels)
            .astype("<i2")
            .tobytes()
        )


def make_extensible(file, kind=1, length=None):
    """Writes a clip again with the header of sox and ffmpeg, and an odd chunk before its samples.

    `kind` is the format of samples; 3 are floats. `length` is announced in place of the true one.
    """
    samples = file.read_bytes()[44:]
    guid = struct.pack("<H", kind) + _PCM_GUID[2:]
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4) + guid
    announced = len(samples) if length is None else length
    chunks = ((b"fmt ", 40, form), (b"LIST", 3, b"odd\0"), (b"data", announced, samples))
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", size) + content for name, size, content in chunks
    )
    file.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
