"""Residual networks for small and large images.

`PreActResNet((3, 4, 23, 3), 10)` is the ResNet101 of ResIST (Dun et al., UAI 2022, section 4):
basic blocks, a 3 x 3 stem, no norm before the classifier. The paper's ResNet152 and ResNet200 have
36 and 50 blocks in stage 3. `ResNet((2, 2, 2, 2), 10)` is ResNet18.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.types import Array
from ist_jax.models.conv import Conv
from ist_jax.models.residual import Block, conv_norm, is_preact, repeated

STEMS = ("small", "large")


def as_images(x: Array) -> Array:
    """Images [B, H, W(, C)] as [B, H, W, C]. Raises ValueError for any other shape."""
    if x.ndim not in (3, 4):
        raise ValueError(
            "a convolutional network takes images, (examples, height, width[, channels]), "
            f"not shape {x.shape}"
        )
    return x[..., None] if x.ndim == 3 else x


class ResNet(nn.Module):
    """Stages 1, 2, ... of blocks: a first block, which may have a stride, and equal further blocks.

    The parameters of a stage's further blocks are stacked along a leading axis
    ('stage_3_rest/conv1/kernel') or, if `unrolled`, separate ('stage_3_block_1/conv1/kernel').

    Attributes:
      stage_sizes: number of blocks of every stage, the first block included.
      num_classes: width of the logits.
      width: channels of stage 1; each later stage has twice as many as the previous one.
      block: a name of `residual.BLOCKS`.
      norm: 'batch' or 'group'.
      stem: 'small' (3 x 3) or 'large' (7 x 7 with stride 2, then pooled by 2).
      inner: for each stage, output channels of conv1 in its further blocks; (): the stage's.
      residual_scales: for each stage, the factor on the branches of its further blocks; (): 1. In a
        full model, it is the share of those blocks that a subnetwork is expected to hold.
      unrolled: whether further blocks are separate modules instead of a loop.
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    stage_sizes: Sequence[int]
    num_classes: int
    width: int = 64
    block: str = "post"
    norm: str = "batch"
    stem: str = "small"
    inner: Sequence[int] = ()
    residual_scales: Sequence[float] = ()
    unrolled: bool = False
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self._stem(as_images(x))
        for stage, count in enumerate(self.stage_sizes, 1):
            x = self._block(stage, f"stage_{stage}_first", stride=1 if stage == 1 else 2)(x)
            further = dict(inner=self.inner[stage - 1] if self.inner else 0)
            further["scale"] = self.residual_scales[stage - 1] if self.residual_scales else 1.0
            if self.unrolled:
                for i in range(1, count):
                    x = self._block(stage, f"stage_{stage}_block_{i}", **further)(x)
            elif count > 1:
                x = repeated(self._block(stage, f"stage_{stage}_rest", **further), count - 1, x)
        pooled_BxD = x.mean(axis=(1, 2))
        head = nn.Dense(
            self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="output"
        )
        logits_BxC = head(pooled_BxD)
        return logits_BxC.astype(jnp.promote_types(logits_BxC.dtype, jnp.float32))

    def _stem(self, x: Array) -> Array:
        large = self.stem == "large"
        size, stride = (7, 2) if large else (3, 1)
        x = Conv(self.width, size, stride, self.dtype, self.param_dtype, name="stem")(x)
        if not is_preact(self.block):
            x = nn.relu(conv_norm(self.norm, "stem_norm", self.dtype, self.param_dtype)(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if large else x

    def _block(self, stage: int, name: str, **fields: float) -> Block:
        features = self.width * 2 ** (stage - 1)
        options = dict(norm=self.norm, dtype=self.dtype, param_dtype=self.param_dtype)
        return Block(self.block, features, name=name, **fields, **options)


class PreActResNet(ResNet):
    """A `ResNet` of pre-activation blocks."""

    block: str = "preact"
