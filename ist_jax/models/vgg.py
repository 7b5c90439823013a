"""Plain convolutional networks (Simonyan and Zisserman, ICLR 2015), pooled before the classifier instead of flattened."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.types import Array
from ist_jax.models.conv import Conv
from ist_jax.models.norm import BatchNorm
from ist_jax.models.residual import conv_norm
from ist_jax.models.resnet import as_images

# the IST paper names a VGG12 without saying which; nine convolutions and three dense layers
VGG12 = (64, 64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)


class VGG(nn.Module):
    """3 x 3 convolutions conv_0, conv_1, ..., each with a norm and relu; dense layers hidden_0, ..., output.

    Attributes:
      channels: of every convolution; 0 is a pooling by 2.
      hidden: widths of the classifier's hidden layers.
      num_classes: width of the logits.
      norm: 'batch' or 'group'; under 'batch' hidden layers of the classifier and, not affine, the logits have BatchNorm, as in
        the IST authors' networks: a subnetwork's logits are sums over fewer neurons; else none.
      dtype: compute dtype, None for that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    num_classes: int
    norm: str = "batch"
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, number = as_images(x), 0
        for channels in self.channels:
            if channels == 0:
                x = _halved(x)
                continue
            x = Conv(
                channels, dtype=self.dtype, param_dtype=self.param_dtype, name=f"conv_{number}"
            )(x)
            x = nn.relu(
                conv_norm(self.norm, f"conv_norm_{number}", self.dtype, self.param_dtype)(x)
            )
            number += 1
        x = x.mean(axis=(1, 2))
        for i, width in enumerate(self.hidden):
            x = self._dense(width, f"hidden_{i}", use_bias=self.norm != "batch")(x)
            x = (
                conv_norm("batch", f"norm_{i}", self.dtype, self.param_dtype)(x)
                if self.norm == "batch"
                else x
            )
            x = nn.relu(x)
        logits_BxC = self._dense(self.num_classes, "output", use_bias=self.norm != "batch")(x)
        logits_BxC = logits_BxC.astype(jnp.promote_types(logits_BxC.dtype, jnp.float32))
        return (
            BatchNorm(affine=False, name="output_norm")(logits_BxC)
            if self.norm == "batch"
            else logits_BxC
        )

    def _dense(self, width: int, name: str, use_bias: bool = True) -> nn.Dense:
        return nn.Dense(
            width, use_bias=use_bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )


def _halved(x: Array) -> Array:
    """The largest of every 2 x 2 pixels; an odd last row or column is left out."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    cells = x[:, : 2 * height, : 2 * width].reshape(x.shape[0], height, 2, width, 2, x.shape[3])
    return cells.max(axis=(2, 4))
