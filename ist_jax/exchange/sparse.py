"""Sparse messages: the largest entries of every chunk of an array, and where they belong.

An array is cut into chunks of C entries, the last one padded with zeros. Of each chunk, the k
entries of largest magnitude are sent: their values, encoded by a codec with one scale per chunk,
and their positions in the chunk as 16-bit integers (32-bit for chunks above 2^16).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array
from ist_jax.exchange.codecs import CODECS, EXACT, Codec

_PER_BYTE = 4  # 2-bit codes


def _shifts() -> Array:
    return 2 * jnp.arange(_PER_BYTE, dtype=jnp.uint8)[None, None]


def _to_int2(leaf: Array, axis: int, key: Any) -> tuple[Array, Array]:
    del key
    others = tuple(a for a in range(leaf.ndim) if a != axis)
    scale = jnp.max(jnp.abs(leaf), axis=others, keepdims=True).astype(jnp.float32)
    ratio = leaf / jnp.where(scale > 0, scale, 1)
    return jnp.clip(jnp.round(1.5 * (ratio + 1)), 0, 3).astype(jnp.uint8), scale


def _from_int2(arrays: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    codes, scale = arrays
    return ((codes.astype(jnp.float32) / 1.5 - 1) * scale).astype(dtype)


VALUES = {
    "exact": EXACT,
    "int8": CODECS["int8"],
    # four levels: plus and minus the scale, and plus and minus a third of it
    "int2": Codec("int2", _to_int2, _from_int2, 2, 4),
}


def pack(codes_CxK: Array) -> Array:
    """uint8[C, K / 4, rounded up]: 2-bit codes, four per byte."""
    codes_CxK = jnp.pad(codes_CxK, ((0, 0), (0, -codes_CxK.shape[1] % _PER_BYTE)))
    codes = codes_CxK.reshape(codes_CxK.shape[0], -1, _PER_BYTE)
    return (codes << _shifts()).sum(axis=-1, dtype=jnp.uint8)


def unpack(packed: Array, count: int) -> Array:
    """uint8[C, count]: the inverse of `pack`."""
    codes = (packed[..., None] >> _shifts()) & 3
    return codes.reshape(packed.shape[0], -1)[:, :count]


class Message(NamedTuple):
    """The entries of one array that are sent.

    Attributes:
      positions: uint16 or uint32[chunks, k], where the entries belong in their chunk.
      values: their encoded values, and a scale per chunk if they are rounded.
    """

    positions: Array
    values: tuple[Array, ...]


class SparseCodec(NamedTuple):
    """How arrays of one shape become messages.

    Attributes:
      shape: of the arrays.
      dtype: of the arrays.
      chunk: C, entries of a chunk.
      kept: k, entries that are sent of each chunk.
      codec: how their values are encoded.
    """

    shape: tuple[int, ...]
    dtype: Any
    chunk: int
    kept: int
    codec: Codec

    @property
    def num_chunks(self) -> int:
        return -(-math.prod(self.shape) // self.chunk)

    @property
    def position_dtype(self) -> Any:
        return jnp.uint16 if self.chunk <= 1 << 16 else jnp.uint32

    def encode(self, value: Array) -> Message:
        """The message of an array."""
        flat = value.reshape(-1)
        flat = jnp.pad(flat, (0, self.num_chunks * self.chunk - flat.size))
        chunks = flat.reshape(self.num_chunks, self.chunk)
        _, positions = jax.lax.top_k(jnp.abs(chunks), self.kept)
        entries = jnp.take_along_axis(chunks, positions, axis=1)
        codes, *scales = self.codec.encode(entries, 0, None)
        if self.codec.bits == 2:
            codes = pack(codes)
        return Message(positions.astype(self.position_dtype), (codes, *scales))

    def decode(self, message: Message) -> Array:
        """The array with the entries of the message; all others are 0."""
        codes, *scales = message.values
        if self.codec.bits == 2:
            codes = unpack(codes, self.kept)
        entries = self.codec.decode((codes, *scales), self.dtype)
        rows = jnp.arange(self.num_chunks)[:, None]
        chunks = jnp.zeros((self.num_chunks, self.chunk), self.dtype)
        chunks = chunks.at[rows, message.positions.astype(jnp.int32)].set(entries)
        return chunks.reshape(-1)[: math.prod(self.shape)].reshape(self.shape)

    @property
    def message_bytes(self) -> int:
        """Bytes of one message."""
        bits = self.codec.bits or 8 * self.dtype.itemsize
        positions = self.kept * jnp.dtype(self.position_dtype).itemsize
        return self.num_chunks * (positions + -(-self.kept * bits // 8) + self.codec.unit_bytes)


def sparse_codec(shape: Any, *, density: float, chunk: int, values: str) -> SparseCodec:
    """The codec of arrays like `shape` (an array or ShapeDtypeStruct).

    Args:
      shape: only its shape and dtype matter.
      density: the share of entries that are sent, above 0 and at most 1. Of every chunk, at least
        one entry is sent.
      chunk: the largest number of entries of a chunk.
      values: a name of `VALUES`.
    """
    length = max(min(chunk, math.prod(shape.shape)), 1)
    kept = min(max(math.ceil(density * length), 1), length)
    return SparseCodec(tuple(shape.shape), shape.dtype, length, kept, VALUES[values])
