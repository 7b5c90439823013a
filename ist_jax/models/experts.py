"""Mixtures of experts (GShard; Lepikhin et al., ICLR 2021. Switch; Fedus et al., JMLR 2022).

A router sends each token to the experts with the highest probabilities. An expert has a capacity, a
fixed number of tokens of a sequence. Earlier tokens come first, so the model stays causal, and a
sequence does not depend on the others of its batch. A token above the capacity is dropped: only the
residual stream passes it on. Shape letters: see `transformer`; besides, T experts per token and C
the capacity of an expert.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ist_jax.core.types import Array
from ist_jax.models.feedforward import Mlp
from ist_jax.models.losses import add_loss

_CAPACITY_FACTOR = 1.25  # capacity / the tokens that balanced experts receive


def balance_loss(share_BxLxE: Array, chosen_BxLxTxE: Array) -> Array:
    """E times the sum over experts of tokens received x mean probability (Switch, equation 4).

    Both are shares of all; the loss is 1 if every expert receives equally many tokens.
    """
    received_E = chosen_BxLxTxE.mean(axis=(0, 1, 2))
    return share_BxLxE.shape[-1] * (received_E * share_BxLxE.mean(axis=(0, 1))).sum()


class Experts(nn.Module):
    """The weighted sum of the outputs of the experts that each token is sent to.

    The weights are the router's probabilities; those of several experts are divided by their sum.

    Attributes:
      experts: E.
      per_token: T, at most E.
      neurons: F of every expert.
      activation: a name of `MLP_ACTIVATIONS`.
      balance: factor of the load-balancing loss.
      gain: as in `Mlp`.
      dtype: compute dtype; None: that of inputs and parameters. The router computes in float32.
      param_dtype: dtype of the parameters.
    """

    experts: int
    per_token: int
    neurons: int
    activation: str = "swiglu"
    balance: float = 0.01
    gain: float = 1.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        share_BxLxE = self._probabilities(x_BxLxD)
        weight_BxLxT, expert_BxLxT = jax.lax.top_k(share_BxLxE, self.per_token)
        if self.per_token > 1:
            weight_BxLxT = weight_BxLxT / weight_BxLxT.sum(axis=-1, keepdims=True)
        chosen_BxLxTxE = jax.nn.one_hot(expert_BxLxT, self.experts)
        add_loss(self, self.balance * balance_loss(share_BxLxE, chosen_BxLxTxE))
        place_BxLxTxExC = self._places(chosen_BxLxTxE)
        send = place_BxLxTxExC.sum(axis=2).astype(x_BxLxD.dtype)
        y_BxExCxD = self._mlps()(jnp.einsum("blec,bld->becd", send, x_BxLxD))
        receive = jnp.einsum("blt,bltec->blec", weight_BxLxT, place_BxLxTxExC)
        return jnp.einsum("blec,becd->bld", receive.astype(y_BxExCxD.dtype), y_BxExCxD)

    def _probabilities(self, x_BxLxD: Array) -> Array:
        shape, kernel = (x_BxLxD.shape[-1], self.experts), nn.initializers.normal(0.02)
        router_DxE = self.param("router", kernel, shape, self.param_dtype)
        wide = (x_BxLxD.astype(jnp.float32), router_DxE.astype(jnp.float32))
        return jax.nn.softmax(jnp.einsum("bld,de->ble", *wide), axis=-1)

    def _places(self, chosen_BxLxTxE: Array) -> Array:
        """[B, L, T, E, C]: 1 at a token's place in the buffer of its expert; 0 if it is dropped."""
        batch, length = chosen_BxLxTxE.shape[:2]
        capacity = math.ceil(_CAPACITY_FACTOR * self.per_token * length / self.experts)
        chosen_BxNxE = chosen_BxLxTxE.reshape(batch, -1, self.experts)
        before_BxNxE = (jnp.cumsum(chosen_BxNxE, axis=1) - chosen_BxNxE).astype(jnp.int32)
        place_BxNxExC = jax.nn.one_hot(before_BxNxE, capacity) * chosen_BxNxE[..., None]
        return place_BxNxExC.reshape(*chosen_BxLxTxE.shape, capacity)

    def _mlps(self) -> nn.Module:
        """[B, E, C, D] to [B, E, C, D], an MLP for every expert."""
        of_each = nn.vmap(
            Mlp, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=1, out_axes=1
        )
        return of_each(
            self.neurons, self.activation, self.gain, self.dtype, self.param_dtype, name="experts"
        )
