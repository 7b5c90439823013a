"""Codecs: how units are encoded for sending, exactly or rounded to fewer bytes.

    exact     unchanged
    bfloat16  16 bits per entry, sent as uint16 (XLA would widen a bfloat16 collective to float32 on
              a CPU)
    int8      8 bits per entry, and one float32 scale per unit: its largest entry / 127
    state     bfloat16 for optimizer state, never sent as differences, so that second moments stay
              positive

Holder-sharded units are rounded stochastically (Gupta et al., ICML 2015): they are rounded at every
exchange, and rounding to nearest would lose small updates each time. Home-sharded units are rounded
to nearest on their way to the subnetworks. They return as differences from what was sent, rounded
stochastically, so the stored copy is never rounded.

Units that stay on their device are rounded, too, so that results do not depend on the number of
devices. Some leaves are sent exactly: those that rounding would not make smaller, those that are
not floating point, and all leaves of a single subnetwork.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Key


class Codec(NamedTuple):
    """How one leaf is encoded.

    Attributes:
      name: a name of `CODECS`.
      encode: (leaf, axis, key or None) -> arrays to send. The first has the leaf's shape. Others
        have the leaf's length along `axis` and length 1 along all other axes. With a key, entries
        are rounded stochastically; without one, to nearest.
      decode: (arrays, dtype) -> leaf.
      bits: bits per entry; None: those of the leaf's dtype.
      unit_bytes: extra bytes per unit.
      differences: whether home-sharded units return as differences from what was sent.
    """

    name: str
    encode: Callable[[Array, int, Key | None], tuple[Array, ...]]
    decode: Callable[[tuple[Array, ...], jnp.dtype], Array]
    bits: int | None
    unit_bytes: int
    differences: bool = True


def _unchanged(leaf: Array, axis: int, key: Key | None) -> tuple[Array]:
    del axis, key
    return (leaf,)


def _from_unchanged(arrays: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    del dtype
    return arrays[0]


def _to_bfloat16(leaf: Array, axis: int, key: Key | None) -> tuple[Array]:
    # some devices represent NaN as all ones, which the addition below would overflow
    value = jnp.where(jnp.isnan(leaf), jnp.nan, leaf).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
    if key is None:  # to nearest, ties to even
        below = jnp.uint32(0x7FFF) + ((bits >> 16) & 1)
    else:
        below = jax.random.bits(key, leaf.shape, jnp.uint16).astype(jnp.uint32)
    return (((bits + below) >> 16).astype(jnp.uint16),)


def _from_bfloat16(arrays: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    bits = arrays[0].astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def _to_int8(leaf: Array, axis: int, key: Key | None) -> tuple[Array, Array]:
    others = tuple(a for a in range(leaf.ndim) if a != axis)
    scale = jnp.max(jnp.abs(leaf), axis=others, keepdims=True).astype(jnp.float32) / 127
    ratio = leaf / jnp.where(scale > 0, scale, 1)
    up = 0.5 if key is None else jax.random.uniform(key, leaf.shape)
    return jnp.clip(jnp.floor(ratio + up), -127, 127).astype(jnp.int8), scale


def _from_int8(arrays: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    entries, scale = arrays
    return (entries.astype(jnp.float32) * scale).astype(dtype)


EXACT = Codec("exact", _unchanged, _from_unchanged, None, 0, differences=False)
CODECS = {
    "exact": EXACT,
    "bfloat16": Codec("bfloat16", _to_bfloat16, _from_bfloat16, 16, 0),
    "int8": Codec("int8", _to_int8, _from_int8, 8, 4),
    "state": Codec("state", _to_bfloat16, _from_bfloat16, 16, 0, differences=False),
}
COMPRESSIONS = ("exact", "bfloat16", "int8")  # the codecs for parameters


def codec_names(compressions: Any, tree: Any) -> list[str]:
    """The codec name of every leaf of `tree`. `compressions` is a tree prefix of it."""

    def repeated(name: str, subtree: Any) -> Any:
        return jax.tree.map(lambda _: name, subtree)

    return jax.tree.leaves(jax.tree.map(repeated, compressions, tree))


def codec_for(compression: str, shape: Any, axis: int | None, num_subnets: int) -> Codec:
    """The codec that `compression` names, or `EXACT` if that codec would not save bytes.

    Args:
      compression: a name of `CODECS`.
      shape: the leaf or its ShapeDtypeStruct.
      axis: the axis of the units; None for a leaf without groups.
      num_subnets: S.
    """
    codec = CODECS[compression]
    if axis is None or num_subnets == 1 or codec.bits is None:
        return EXACT
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return EXACT
    entries_per_unit = shape.size / shape.shape[axis]
    bytes_per_entry = codec.bits / 8 + codec.unit_bytes / entries_per_unit
    return codec if bytes_per_entry < shape.dtype.itemsize else EXACT
