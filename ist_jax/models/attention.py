"""Causal attention with rotary positions and grouped heads. Shape letters: see `transformer`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ist_jax.core.types import Array
from ist_jax.models.feedforward import linear

_WAVELENGTH = 10_000  # of the slowest rotation, in tokens / 2 pi


def rotated(x_BxLxNxH: Array) -> Array:
    """`x` with rotary positions (Su et al., 2021, section 3.2.2).

    Features i and i + H / 2 of the token at position l are a vector in the plane, rotated by the
    angle l * 10000^(-2i / H). So the product of a query and a key depends on the positions of their
    tokens only by their distance.

    Args:
      x_BxLxNxH: queries or keys of N heads. H is even.
    """
    length, size = x_BxLxNxH.shape[1], x_BxLxNxH.shape[3]
    rate_H = _WAVELENGTH ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = (jnp.arange(length, dtype=jnp.float32)[:, None] * rate_H[None])[None, :, None]
    first, second = jnp.split(x_BxLxNxH.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxLxNxH.dtype)


class Attention(nn.Module):
    """Causal attention, [B, L, D] to [B, L, D].

    Attributes:
      heads: K x G, number of query heads.
      kv_heads: K, number of heads of keys and values; it divides `heads`.
      head_dim: H.
      rotary: whether queries and keys are rotated by their positions.
      gain: of the initial output kernel, as a factor of its variance.
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary: bool = True
    gain: float = 1.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        batch, length, width = x_BxLxD.shape
        kv, queries, size = self.kv_heads, self.heads // self.kv_heads, self.head_dim

        def project(equation: str, name: str, *shape: int) -> Array:
            return linear(self, equation, (width, *shape), 1, 1.0, name)(x_BxLxD)

        q_BxLxKxGxH = project("bld,dkgh->blkgh", "query", kv, queries, size)
        k_BxLxKxH = project("bld,dkh->blkh", "key", kv, size)
        v_BxLxKxH = project("bld,dkh->blkh", "value", kv, size)
        q_BxLxNxH = q_BxLxKxGxH.reshape(batch, length, self.heads, size)
        if self.rotary:
            q_BxLxNxH, k_BxLxKxH = rotated(q_BxLxNxH), rotated(k_BxLxKxH)
        y_BxLxNxH = jax.nn.dot_product_attention(q_BxLxNxH, k_BxLxKxH, v_BxLxKxH, is_causal=True)
        y_BxLxKxGxH = y_BxLxNxH.reshape(batch, length, kv, queries, size)
        shape = (kv, queries, size, width)
        return linear(self, "blkgh,kghd->bld", shape, 3, self.gain, "output")(y_BxLxKxGxH)
