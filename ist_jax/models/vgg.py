"""Plain convolutional networks (Simonyan and Zisserman, ICLR 2015).

Unlike in the paper, the classifier reads the mean over all pixels, not the flattened image.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.types import Array
from ist_jax.models.conv import Conv
from ist_jax.models.norm import BatchNorm
from ist_jax.models.residual import conv_norm
from ist_jax.models.resnet import as_images

# the IST paper does not define its VGG12; this one has 9 convolutions and 3 dense layers
VGG12 = (64, 64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)


class VGG(nn.Module):
    """3 x 3 convolutions conv_0, ... with norm and relu, and dense layers hidden_0, ..., output.

    Attributes:
      channels: output channels of each convolution; 0: pool by 2.
      hidden: widths of the classifier's hidden layers.
      num_classes: width of the logits.
      norm: 'batch' or 'group'. With 'batch', the classifier's hidden layers and its logits also
        have BatchNorm (the logits without affine parameters), as in the IST authors' networks,
        since a subnetwork's logits are sums over fewer neurons. With 'group', they have none.
      dtype: compute dtype; None: that of inputs and parameters.
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
        x = self._convolutions(as_images(x)).mean(axis=(1, 2))
        for i, width in enumerate(self.hidden):
            x = self._dense(width, f"hidden_{i}")(x)
            if self.norm == "batch":
                x = conv_norm("batch", f"norm_{i}", self.dtype, self.param_dtype)(x)
            x = nn.relu(x)
        logits_BxC = self._dense(self.num_classes, "output")(x)
        logits_BxC = logits_BxC.astype(jnp.promote_types(logits_BxC.dtype, jnp.float32))
        if self.norm == "batch":
            logits_BxC = BatchNorm(affine=False, name="output_norm")(logits_BxC)
        return logits_BxC

    def _convolutions(self, x: Array) -> Array:
        dtypes, number = dict(dtype=self.dtype, param_dtype=self.param_dtype), 0
        for channels in self.channels:
            if channels == 0:
                x = _max_pool(x)
                continue
            x = Conv(channels, **dtypes, name=f"conv_{number}")(x)
            x = nn.relu(conv_norm(self.norm, f"conv_norm_{number}", **dtypes)(x))
            number += 1
        return x

    def _dense(self, width: int, name: str) -> nn.Dense:
        options = dict(dtype=self.dtype, param_dtype=self.param_dtype, name=name)
        return nn.Dense(width, use_bias=self.norm != "batch", **options)


def _max_pool(x: Array) -> Array:
    """The maximum of every 2 x 2 pixels. An odd last row or column is dropped."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    cells = x[:, : 2 * height, : 2 * width].reshape(x.shape[0], height, 2, width, 2, x.shape[3])
    return cells.max(axis=(2, 4))
