"""The fully connected network of IST (Yuan et al., VLDB 2022, section 5).

Dense layers have no bias. BatchNorm follows every hidden layer and, without affine parameters, the
logits. So subnetworks share no parameters, and activations need no scaling.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ist_jax.models.norm import BatchNorm

ACTIVATIONS: dict[str, Callable[[ArrayLike], jax.Array]] = {
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "tanh": nn.tanh,
    "silu": nn.silu,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
}
NORMS = ("batch", "layer", "none")


class MLP(nn.Module):
    """Dense layers hidden_0, hidden_1, ..., output, with norms norm_0, ..., output_norm.

    Attributes:
      hidden: widths of the hidden layers.
      num_classes: width of the logits.
      norm: 'batch' (hidden layers and logits), 'layer' (hidden layers) or 'none'.
      affine_output: whether the norm of the logits has a scale and a bias, as regression and rare
        labels need.
      bias: whether dense layers have a bias.
      activation: a name of `ACTIVATIONS`.
      sum_scale: factor on the units of every hidden layer. It is 1 in a subnetwork. A full model
        without norm needs less, since it sums more units than its subnetworks did.
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    hidden: tuple[int, ...]
    num_classes: int
    norm: str = "batch"
    affine_output: bool = False
    bias: bool = False
    activation: str = "relu"
    sum_scale: float = 1.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = self._norm(f"norm_{i}")(self._dense(width, f"hidden_{i}")(x))
            x = ACTIVATIONS[self.activation](x)
            x = x if self.sum_scale == 1.0 else x * self.sum_scale
        logits_BxC = self._dense(self.num_classes, "output")(x)
        if self.norm == "batch":
            logits_BxC = BatchNorm(
                affine=self.affine_output, param_dtype=self.param_dtype, name="output_norm"
            )(logits_BxC)
        return logits_BxC.astype(jnp.promote_types(logits_BxC.dtype, jnp.float32))

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(
            width, use_bias=self.bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )

    def _norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        if self.norm == "batch":
            return BatchNorm(param_dtype=self.param_dtype, name=name)
        if self.norm == "layer":
            return nn.LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name=name)
        return lambda x: x
