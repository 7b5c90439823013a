"""Headers of wav files with PCM samples, plain or extensible, as sox and ffmpeg write them.

Format: "RIFF", a size and "WAVE"; then chunks. A chunk has a name, the size of its content in
bytes, and the content, padded to an even number of bytes. The chunk "fmt " describes the samples in
the chunk "data" (Microsoft and IBM, Multimedia Programming Interface, 1991). Python's `wave` reads
extensible headers only from Python 3.12 on.
"""

import os
import struct
from typing import BinaryIO, NamedTuple

_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")  # of extensible headers
_LONGEST_FORMAT = 40  # bytes
# Lengths from here on mean that a file was written to a pipe: ffmpeg writes 0xFFFFFFFF, sox the
# largest number of whole frames below 0x7FFFF000.
_UNKNOWN = 0x7FFF0000


class WavHeader(NamedTuple):
    """What a wav file says about its samples.

    Attributes:
      channels: number of channels.
      sample_bytes: bytes of one sample of one channel.
      rate: samples of a channel per second.
      is_pcm: whether samples are plain integers.
      begin: position of the samples in the file, in bytes.
      announced: number of samples of a channel that the header announces.
      following: number of samples of a channel that the file has room for.
    """

    channels: int
    sample_bytes: int
    rate: int
    is_pcm: bool
    begin: int
    announced: int
    following: int


def is_wav(file: BinaryIO) -> bool:
    """Whether the file begins as a wav file does. It is then at the first chunk."""
    begin = file.read(12)
    return begin[:4] == b"RIFF" and begin[8:] == b"WAVE"


def read_header(file: BinaryIO) -> WavHeader:
    """The header of a wav file that is at its first chunk (see `is_wav`).

    Raises:
      ValueError: the file is truncated or damaged.
    """
    form = b""
    while len(chunk := file.read(8)) == 8:
        name, length, begin = chunk[:4], int.from_bytes(chunk[4:], "little"), file.tell()
        if name == b"data":
            return _header(form, begin, length, os.fstat(file.fileno()).st_size)
        if name == b"fmt ":
            form = file.read(min(length, _LONGEST_FORMAT))
        file.seek(begin + length + length % 2)
    raise ValueError("it ends before its samples")


def _header(form: bytes, begin: int, length: int, file_length: int) -> WavHeader:
    if len(form) < 16:
        raise ValueError("it does not say the format of its samples")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    is_pcm = kind == _PCM or (kind == _EXTENSIBLE and form[24:40] == _PCM_GUID)
    sample_bytes = -(-bits // 8)
    if not channels or not sample_bytes:
        raise ValueError(f"it announces {channels} channels of {bits} bits")
    room, frame = file_length - begin, channels * sample_bytes
    announced = room if length >= _UNKNOWN else length
    return WavHeader(channels, sample_bytes, rate, is_pcm, begin, announced // frame, room // frame)
