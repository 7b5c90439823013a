"""Normalisation without hidden state.

The mode of a module is in what it is applied to, not in a flag, so that any `__call__(self, x)` model
can be trained here:

    apply({'params': p}, x)                             statistics of the batch (training, eval_norm='batch')
    apply({'params': p}, x, mutable=[STATS])            the same, and hands the statistics back
    apply({'params': p, STATS: measured}, x)            measured statistics: a prediction is per example
    apply(..., rngs={'dropout': key})                   dropout is on; without the key it is off
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

STATS = "norm_stats"


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy, ICML 2015), without running statistics.

    Scale and bias are ordinary parameters, so that they travel with their unit (IST: affine on hidden layers,
    none on the logits). Moments are taken in at least float32.

    Attributes:
      affine: whether there are a scale and a bias.
      epsilon: added to the variance.
      param_dtype: dtype of scale and bias.
    """

    affine: bool = True
    epsilon: float = 1e-5
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = self._statistics(wide)
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            shape = (1,) * (x.ndim - 1) + (-1,)
            scale_H = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
            bias_H = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
            y = y * scale_H.reshape(shape) + bias_H.reshape(shape)
        return y.astype(x.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        measuring = self.is_mutable_collection(STATS)
        if self.has_variable(STATS, "mean") and not measuring:
            return self.get_variable(STATS, "mean"), self.get_variable(STATS, "var")
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        if measuring and not self.is_initializing():
            self.put_variable(STATS, "mean", mean)
            self.put_variable(STATS, "var", var)
        return mean, var
