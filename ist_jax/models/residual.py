"""Residual blocks, and loops over blocks.

Pre-activation: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016. The shortcut has
no norm, as in the authors' release of ResIST (Dun et al., UAI 2022). Post-activation: He et al.,
CVPR 2016.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ist_jax.core.sharded_stack import ShardedStack
from ist_jax.core.types import Array
from ist_jax.models.conv import Conv
from ist_jax.models.losses import LOSSES
from ist_jax.models.norm import STATS, BatchNorm

CONV_NORMS = ("batch", "group")
BLOCKS = ("preact", "post", "preact_bottleneck", "post_bottleneck")


def is_preact(block: str) -> bool:
    """Whether a kind of block has its norms and activations before the convolutions."""
    return block.startswith("preact")


def expansion(block: str) -> int:
    """Output channels of a kind of block per channel of its 3 x 3 convolutions."""
    return 4 if block.endswith("bottleneck") else 1


class Block(nn.Module):
    """x -> shortcut + scale * branch(x).

    If all parameters are zero, so is the branch. A pre-activation block is then the identity.

    Attributes:
      kind: a name of `BLOCKS`.
      features: output channels / expansion(kind).
      inner: output channels of conv1, which conv2 reads; 0: `features`.
      stride: stride of the first 3 x 3 convolution and of the shortcut.
      scale: factor on the branch.
      norm: 'batch' or 'group' (groups of 16 channels; Wu and He, ECCV 2018).
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    kind: str
    features: int
    inner: int = 0
    stride: int = 1
    scale: float = 1.0
    norm: str = "batch"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scaled = lambda branch: branch if self.scale == 1.0 else branch * self.scale
        shortcut = lambda x: self._conv(self._out, "shortcut", 1, self.stride)(x)
        if is_preact(self.kind):
            active = nn.relu(self._norm("norm1")(x))
            kept = shortcut(active) if self._changes(x) else x
            return kept + scaled(self._branch(active))
        kept = self._norm("shortcut_norm")(shortcut(x)) if self._changes(x) else x
        return nn.relu(kept + scaled(self._branch(x)))

    @property
    def _out(self) -> int:
        return self.features * expansion(self.kind)

    def _changes(self, x: Array) -> bool:
        return self.stride != 1 or x.shape[-1] != self._out

    def _branch(self, x: Array) -> Array:
        """Convolutions with a norm and a relu in between; post-activation ends with a norm."""
        inner = self.inner or self.features
        layers = [(inner, 3, self.stride), (self._out, 3, 1)]  # features, kernel size, stride
        if expansion(self.kind) > 1:
            layers = [(inner, 1, 1), (self.features, 3, self.stride), (self._out, 1, 1)]
        norm_follows = not is_preact(self.kind)  # norm1 follows conv1, or precedes it
        for i, (features, size, stride) in enumerate(layers, 1):
            if i > 1:
                x = nn.relu(x if norm_follows else self._norm(f"norm{i}")(x))
            x = self._conv(features, f"conv{i}", size, stride)(x)
            x = self._norm(f"norm{i}")(x) if norm_follows else x
        return x

    def _conv(self, features: int, name: str, size: int = 3, stride: int = 1) -> Conv:
        return Conv(features, size, stride, self.dtype, self.param_dtype, name=name)

    def _norm(self, name: str) -> Callable[[Array], Array]:
        return conv_norm(self.norm, name, self.dtype, self.param_dtype)


def conv_norm(
    norm: str, name: str, dtype: DTypeLike | None, param_dtype: DTypeLike
) -> Callable[[Array], Array]:
    """The norm of a convolutional network with this name."""
    if norm == "batch":
        return BatchNorm(param_dtype=param_dtype, name=name)

    def group_norm(x: Array) -> Array:
        norm = nn.GroupNorm(
            num_groups=None,
            group_size=math.gcd(16, x.shape[-1]),
            dtype=dtype,
            param_dtype=param_dtype,
            name=name,
        )
        return norm(x)

    return group_norm


def _is_sharded(value: Any) -> bool:
    return isinstance(value, ShardedStack)


def repeated(block: nn.Module, count: int, x: Array) -> Array:
    """Applies `count` blocks, one after another, in a loop.

    Their parameters and statistics have a leading axis of blocks. A loop over `ShardedStack`
    parameters fetches one block at a time.
    """
    params = jax.tree.leaves(block.variables.get("params", {}), is_leaf=_is_sharded)
    if any(map(_is_sharded, params)):
        return _fetched(block, count, x)
    loop = nn.scan(
        lambda block, x, _: (block(x), None),
        variable_axes={"params": 0, STATS: 0, LOSSES: 0},
        split_rngs={"params": True, "dropout": True},
        length=count,
    )
    return loop(block, x, None)[0]


def _fetched(block: nn.Module, count: int, x: Array) -> Array:
    """`repeated` over `ShardedStack` parameters."""

    def call(block: nn.Module, x: Array) -> Array:
        return block(x)

    def step(block: nn.Module, x: Array, number: Array) -> tuple[Array, None]:
        fetch = lambda leaf: leaf.block(number)
        fetch_all = lambda params: jax.tree.map(fetch, params, is_leaf=_is_sharded)
        return nn.map_variables(call, "params", trans_in_fn=fetch_all)(block, x), None

    axes: Any = {STATS: 0, LOSSES: 0}
    loop = nn.scan(step, variable_broadcast="params", variable_axes=axes, length=count)
    return loop(block, x, jnp.arange(count))[0]
