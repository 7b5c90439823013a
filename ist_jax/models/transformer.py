"""A decoder-only Transformer (Vaswani et al., NeurIPS 2017).

It has pre-norm blocks (Xiong et al., ICML 2020), no biases, and by default RMSNorm (Zhang and
Sennrich, NeurIPS 2019), rotary positions (Su et al., 2021) and SwiGLU (Shazeer, 2020). Heads may be
grouped: several query heads share a key and a value head (Ainslie et al., EMNLP 2023). In every
kernel, heads and neurons have an axis to themselves, so that rules can label it.

Shape letters:

    B  sequences of a batch         H  features of one head
    L  tokens of a sequence         F  neurons of an MLP
    D  features of a token          V  tokens of the vocabulary
    K  heads of keys and values     E  experts of a layer
    G  query heads for each of them
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ist_jax.core.types import Array
from ist_jax.models.attention import Attention
from ist_jax.models.experts import Experts
from ist_jax.models.feedforward import MLP_ACTIVATIONS, Mlp, linear
from ist_jax.models.residual import repeated

POSITIONS = ("rotary", "learned")
SEQUENCE_NORMS = ("rms", "layer")
REMATS = ("none", "dots", "full")
_CHOICES = {
    "activation": tuple(MLP_ACTIVATIONS),
    "norm": SEQUENCE_NORMS,
    "positions": POSITIONS,
    "remat": REMATS,
}


class Block(nn.Module):
    """x -> x + attention(norm(x)) -> x + mlp(norm(x)), each branch with a factor and dropout.

    If all parameters are zero, the block is the identity.

    Attributes:
      attention: [B, L, D] to [B, L, D].
      mlp: the same.
      norm: a name of `SEQUENCE_NORMS`.
      attention_scale: factor on the attention branch.
      mlp_scale: factor on the MLP branch.
      dropout: probability that a feature of a branch is dropped in training.
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    attention: nn.Module
    mlp: nn.Module
    norm: str = "rms"
    attention_scale: float = 1.0
    mlp_scale: float = 1.0
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        norm = lambda name: sequence_norm(self.norm, name, self.dtype, self.param_dtype)
        branch_BxLxD = self.attention(norm("attention_norm")(x_BxLxD))
        x_BxLxD = x_BxLxD + dropped(self, _scaled(branch_BxLxD, self.attention_scale))
        branch_BxLxD = self.mlp(norm("mlp_norm")(x_BxLxD))
        return x_BxLxD + dropped(self, _scaled(branch_BxLxD, self.mlp_scale))


def _scaled(branch: Array, scale: float) -> Array:
    return branch if scale == 1.0 else branch * scale


def sequence_norm(
    norm: str, name: str, dtype: DTypeLike | None, param_dtype: DTypeLike
) -> Callable[[Array], Array]:
    """A norm over the features of a token, without bias. The module is called `name`."""
    if norm == "rms":
        return nn.RMSNorm(dtype=dtype, param_dtype=param_dtype, name=name)
    return nn.LayerNorm(use_bias=False, dtype=dtype, param_dtype=param_dtype, name=name)


def dropped(module: nn.Module, x: Array) -> Array:
    """`x` with dropout of the module's rate, if there is a random stream 'dropout'."""
    return nn.Dropout(module.dropout, deterministic=not module.has_rng("dropout"))(x)


class Transformer(nn.Module):
    """Logits float32[B, L, V] of the next token after each token int[B, L].

    Attributes:
      vocabulary: V.
      context: the largest number of tokens that it reads, and the number of learned positions.
      layers: number of blocks.
      width: D.
      heads: K x G, number of query heads.
      kv_heads: K, number of heads of keys and values; it divides `heads`. 0: as many as `heads`.
      head_dim: H; 0: width / heads.
      mlp_width: F; 0: 4 x width.
      activation: a name of `MLP_ACTIVATIONS`.
      norm: a name of `SEQUENCE_NORMS`.
      positions: a name of `POSITIONS`.
      tied: whether the output kernel is the embedding.
      dropout: probability that a feature of the embedding, or of a branch, is dropped in training.
      experts: E, the experts of every MLP (`models.experts`); 0: plain MLPs.
      experts_per_token: experts that a token is sent to.
      balance: factor of the experts' load-balancing loss.
      attention_scale: factor on the attention branches. It is 1 in a subnetwork; a full model sums
        over more heads.
      mlp_scale: factor on the MLP branches; a full model sums over more neurons.
      scan: whether blocks run in a loop, which compiles faster. Their parameters are stacked along
        a leading axis: 'layers/...' in place of 'layer_0/...'.
      remat: activations that the backward pass recomputes. 'none'; 'dots': all but the results of
        products with parameters; 'full': all of a block.
      dtype: compute dtype; None: that of the parameters.
      param_dtype: dtype of the parameters.
    """

    vocabulary: int
    context: int
    layers: int = 4
    width: int = 128
    heads: int = 8
    kv_heads: int = 0
    head_dim: int = 0
    mlp_width: int = 0
    activation: str = "swiglu"
    norm: str = "rms"
    positions: str = "rotary"
    tied: bool = True
    dropout: float = 0.0
    experts: int = 0
    experts_per_token: int = 2
    balance: float = 0.01
    attention_scale: float = 1.0
    mlp_scale: float = 1.0
    scan: bool = True
    remat: str = "none"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, token_BxL: Array) -> Array:
        self._check()
        embedding = nn.Embed(
            self.vocabulary,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="embedding",
        )
        x_BxLxD = dropped(self, self._with_positions(embedding(token_BxL)))
        if self.scan:
            x_BxLxD = repeated(self._block("layers"), self.layers, x_BxLxD)
        else:
            for i in range(self.layers):
                x_BxLxD = self._block(f"layer_{i}")(x_BxLxD)
        x_BxLxD = sequence_norm(self.norm, "output_norm", self.dtype, self.param_dtype)(x_BxLxD)
        if self.tied:
            return embedding.attend(x_BxLxD).astype(jnp.float32)
        shape = (self.width, self.vocabulary)
        return linear(self, "bld,dv->blv", shape, 1, 1.0, "output")(x_BxLxD).astype(jnp.float32)

    def _check(self) -> None:
        """Raises ValueError if a name is unknown, or heads do not divide."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {choices}, not {getattr(self, name)!r}")
        kv_heads, size = self.kv_heads or self.heads, self.head_dim or self.width // self.heads
        if self.heads % kv_heads:
            raise ValueError(f"kv_heads={kv_heads} must divide heads={self.heads}: use a divisor")
        if self.positions == "rotary" and size % 2:
            raise ValueError(
                f"rotary positions rotate pairs of features, and a head has {size}: use an even "
                "head_dim, or positions='learned'"
            )

    def _with_positions(self, x_BxLxD: Array) -> Array:
        """Embeddings with learned positions, if there are any."""
        length = x_BxLxD.shape[1]
        if length > self.context:
            raise ValueError(
                f"a sequence has at most context={self.context} tokens, but this one has {length}: "
                "cut it, or give the model a longer context"
            )
        if self.positions != "learned":
            return x_BxLxD
        shape, init = (self.context, self.width), nn.initializers.normal(0.02)
        position_LxD = self.param("positions", init, shape, self.param_dtype)[:length]
        return x_BxLxD + position_LxD[None].astype(x_BxLxD.dtype)

    def _block(self, name: str) -> Block:
        return _rematerialised(self.remat, self.scan)(
            self._attention(),
            self._mlp(),
            self.norm,
            self.attention_scale,
            self.mlp_scale,
            self.dropout,
            name=name,
            **self._dtypes,
        )

    def _attention(self) -> nn.Module:
        return Attention(
            self.heads,
            self.kv_heads or self.heads,
            self.head_dim or self.width // self.heads,
            self.positions == "rotary",
            self._gain,
            parent=None,  # the block adopts it
            **self._dtypes,
        )

    def _mlp(self) -> nn.Module:
        sizes, options = (self.mlp_width or 4 * self.width, self.activation), self._dtypes
        if not self.experts:
            return Mlp(*sizes, self._gain, parent=None, **options)
        return Experts(
            self.experts,
            self.experts_per_token,
            *sizes,
            self.balance,
            self._gain,
            parent=None,
            **options,
        )

    @property
    def _gain(self) -> float:
        """Of the initial output kernels: two branches of every layer add up (as in GPT-2)."""
        return 1 / (2 * self.layers)

    @property
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def _rematerialised(remat: str, scan: bool) -> type[Block]:
    """`Block`, whose activations the backward pass recomputes."""
    if remat == "none":
        return Block
    policies = jax.checkpoint_policies
    policy = policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return nn.remat(Block, prevent_cse=not scan, policy=policy)
