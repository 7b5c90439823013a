"""What units look like on the wire: exact, or rounded to fewer bytes.

    exact     as they are
    bfloat16  16 bits an entry, sent as uint16 (on a CPU, XLA widens a bfloat16 collective to float32)
    int8      8 bits an entry and a float32 scale per unit, its largest entry / 127

    state     optimizer state beside rounded weights: bfloat16 that is never a difference, so that moments keep their sign

Weights that travel are rounded stochastically (Gupta et al., ICML 2015): units are rounded again at every exchange,
and to the nearest a small update would be lost every time. Units at home are sent rounded to the nearest and come
back as differences from what was sent, rounded stochastically, so that the home's copy stays exact. Units that stay where
they are are rounded like all others, so that the result does not depend on the devices. Leaves that would not become
smaller (an int8 scale per unit of one entry), integers, and everything of a single subnetwork go exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Key


class Format(NamedTuple):
    """How one leaf is sent.

    Attributes:
      name: a name of `FORMATS`.
      encode: (leaf, axis, key or None) -> arrays to send, the first of the leaf's shape, others with units along `axis`
        and length 1 elsewhere. Rounded stochastically with a key, to the nearest without.
      decode: (arrays, dtype) -> leaf.
      bits: of an entry.
      unit_bytes: beside them, per unit.
      differences: whether units that come home are sent as differences.
    """

    name: str
    encode: Callable[[Array, int, Key | None], tuple[Array, ...]]
    decode: Callable[[tuple[Array, ...], jnp.dtype], Array]
    bits: int | None
    unit_bytes: int
    differences: bool = True


def _to_bfloat16(leaf: Array, axis: int, key: Key | None) -> tuple[Array]:
    # some devices write nan as all ones, to which nothing can be added
    value = jnp.where(jnp.isnan(leaf), jnp.nan, leaf).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
    if key is None:  # half of what is cut off, ties to even
        below = jnp.uint32(0x7FFF) + ((bits >> 16) & 1)
    else:
        below = jax.random.bits(key, leaf.shape, jnp.uint16).astype(jnp.uint32)
    return (((bits + below) >> 16).astype(jnp.uint16),)


def _from_bfloat16(sent: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    return jax.lax.bitcast_convert_type(sent[0].astype(jnp.uint32) << 16, jnp.float32).astype(dtype)


def _to_int8(leaf: Array, axis: int, key: Key | None) -> tuple[Array, Array]:
    others = tuple(a for a in range(leaf.ndim) if a != axis)
    scale = jnp.max(jnp.abs(leaf), axis=others, keepdims=True).astype(jnp.float32) / 127
    ratio = leaf / jnp.where(scale > 0, scale, 1)
    up = 0.5 if key is None else jax.random.uniform(key, leaf.shape)
    return jnp.clip(jnp.floor(ratio + up), -127, 127).astype(jnp.int8), scale


def _from_int8(sent: tuple[Array, ...], dtype: jnp.dtype) -> Array:
    return (sent[0].astype(jnp.float32) * sent[1]).astype(dtype)


EXACT = Format(
    "exact",
    lambda leaf, axis, key: (leaf,),
    lambda sent, dtype: sent[0],
    None,
    0,
    differences=False,
)
FORMATS = {
    "exact": EXACT,
    "bfloat16": Format("bfloat16", _to_bfloat16, _from_bfloat16, 16, 0),
    "int8": Format("int8", _to_int8, _from_int8, 8, 4),
    "state": Format("state", _to_bfloat16, _from_bfloat16, 16, 0, differences=False),
}
WIRES = ("exact", "bfloat16", "int8")  # for parameters


def each_leaf(wires: Any, tree: Any) -> list[str]:
    """The format's name of every leaf of `tree`, of which `wires` is a prefix."""
    return jax.tree.leaves(
        jax.tree.map(lambda wire, part: jax.tree.map(lambda _: wire, part), wires, tree)
    )


def format_of(wire: str, shape: Any, axis: int | None, num_subnets: int) -> Format:
    """How a leaf whose units lie along `axis` is sent: as `wire` says, or exactly where that would not make it smaller.

    Args:
      wire: a name of `FORMATS`.
      shape: the leaf, or its shape and dtype.
      axis: along which it rests; None for leaves without a group.
      num_subnets: S.
    """
    chosen = FORMATS[wire]
    if (
        axis is None
        or num_subnets == 1
        or not chosen.bits
        or not jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        return EXACT
    entries = shape.size / shape.shape[axis]
    return chosen if chosen.bits / 8 + chosen.unit_bytes / entries < shape.dtype.itemsize else EXACT
