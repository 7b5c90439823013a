"""Normalisation without hidden state.

The variables of `apply` choose the mode, not a flag. So any module `__call__(self, x)` works:

    apply({'params': p}, x)                     the batch's statistics (training, eval_norm='batch')
    apply({'params': p}, x, mutable=[STATS])    the same, and returns the statistics
    apply({'params': p, STATS: measured}, x)    measured statistics: predictions per example
    apply(..., rngs={'dropout': key})           with dropout; without the key, dropout is off

`ist_jax.models.NnxBatchNorm` is the same for Flax NNX.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

STATS = "norm_stats"


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 or better, in which moments are computed."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over all axes except the last; both have as many axes as `x`."""
    axes = tuple(range(x.ndim - 1))
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


def along_last(value_H: jax.Array, ndim: int) -> jax.Array:
    """`value_H` with `ndim` axes, of which all but the last have length 1."""
    return value_H.reshape((1,) * (ndim - 1) + (-1,))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes except the last, without running statistics.

    Ioffe and Szegedy, ICML 2015. Scale and bias are parameters, so they move with their unit. In
    IST, hidden layers have them and the logits do not. Moments are computed in float32 or better.

    Attributes:
      affine: whether to apply a scale and a bias.
      epsilon: added to the variance.
      param_dtype: dtype of scale and bias.
    """

    affine: bool = True
    epsilon: float = 1e-5
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = widened(x)
        mean, var = self._statistics(wide)
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            scale_H = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
            bias_H = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
            y = y * along_last(scale_H, x.ndim) + along_last(bias_H, x.ndim)
        return y.astype(x.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        measuring = self.is_mutable_collection(STATS)
        if self.has_variable(STATS, "mean") and not measuring:
            return self.get_variable(STATS, "mean"), self.get_variable(STATS, "var")
        mean, var = moments(x)
        if measuring and not self.is_initializing():
            self.put_variable(STATS, "mean", mean)
            self.put_variable(STATS, "var", var)
        return mean, var
