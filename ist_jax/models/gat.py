"""Graph attention networks (Velickovic et al., ICLR 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ist_jax.models.graphs import activated, dropped
from ist_jax.types import Array, Graph


def _edges(graph: Graph) -> tuple[Array, Array]:
    """(sender_E, receiver_E), every node its own neighbour; a sender that is N is none."""
    num_nodes = graph.mask_N.shape[0]
    node_N = jnp.arange(num_nodes)
    parts = ((node_N[:, None], node_N), (graph.neighbours_NxW, node_N), (graph.overflow_RxW, graph.receiver_R))
    senders = [sender.reshape(-1) for sender, _ in parts]
    receivers = [jnp.repeat(receiver, sender.shape[1]) for sender, receiver in parts]
    return jnp.concatenate(senders), jnp.concatenate(receivers)


class Attention(nn.Module):
    """All heads of one layer: [N, heads in, D] to [N, heads, H] (Velickovic et al., eq. 1 to 5).

    Attributes:
      heads: number of heads.
      width: H, features of one head.
      concatenated: whether heads stay apart; if not, the result is their mean [N, H].
      bias: whether there is one.
      param_dtype: dtype of the parameters.
    """

    heads: int
    width: int
    concatenated: bool = True
    bias: bool = True
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxGxD: Array, graph: Graph) -> Array:
        num_nodes = h_NxGxD.shape[0]
        shape, glorot = (self.heads, self.width), nn.initializers.glorot_uniform()
        project = nn.DenseGeneral(
            shape, axis=(-2, -1), use_bias=False, kernel_init=glorot, param_dtype=self.param_dtype, name="project"
        )
        z_NxAxH = project(h_NxGxD)
        of_node = lambda name: (z_NxAxH * self.param(name, glorot, shape, self.param_dtype)[None]).sum(axis=-1)
        to_NxA, from_NxA = of_node("receiver"), of_node("sender")
        sender_E, receiver_E = _edges(graph)
        logit_ExA = nn.leaky_relu(to_NxA[receiver_E] + from_NxA.at[sender_E].get(mode="clip"), 0.2)
        logit_ExA = jnp.where((sender_E < num_nodes)[:, None], logit_ExA, -jnp.inf)
        highest_NxA = jax.lax.stop_gradient(jax.ops.segment_max(logit_ExA, receiver_E, num_nodes))
        weight_ExA = jnp.exp(logit_ExA - highest_NxA[receiver_E])
        message_ExAxH = weight_ExA[:, :, None] * z_NxAxH.at[sender_E].get(mode="clip")
        total_NxA = jax.ops.segment_sum(weight_ExA, receiver_E, num_nodes)
        y_NxAxH = jax.ops.segment_sum(message_ExAxH, receiver_E, num_nodes) / total_NxA[:, :, None]
        y = y_NxAxH if self.concatenated else y_NxAxH.mean(axis=1)
        return y + self.param("bias", nn.initializers.zeros, y.shape[1:], self.param_dtype)[None] if self.bias else y


class GAT(nn.Module):
    """Attention layers hidden_0, hidden_1, ..., output; heads concatenated inside, their mean at the end.

    Attributes:
      hidden: features of one head, for every hidden layer.
      heads: number of heads of every layer.
      Others as of `GCN`; 'layer' normalises over all heads' features of a node.
    """

    hidden: tuple[int, ...]
    num_classes: int
    heads: int = 4
    norm: str = "none"
    dropout: float = 0.0
    bias: bool = True
    activation: str = "elu"
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, graph: Graph) -> Array:
        drop = lambda h: dropped(h, self.dropout, self.make_rng("dropout") if self.has_rng("dropout") else None)
        h_NxAxH = graph.features[:, None]
        for i, width in enumerate(self.hidden):
            h_NxAxH = self._layer(width, f"hidden_{i}", True)(drop(h_NxAxH), graph)
            h_NxAxH = self._activated(h_NxAxH, graph)
        return self._layer(self.num_classes, "output", False)(drop(h_NxAxH), graph)

    def _layer(self, width: int, name: str, concatenated: bool) -> Attention:
        return Attention(self.heads, width, concatenated, self.bias, self.param_dtype, name=name)

    def _activated(self, h_NxAxH: Array, graph: Graph) -> Array:
        flat = h_NxAxH.reshape(h_NxAxH.shape[0], -1)
        return activated(flat, self.norm, self.activation, graph.mask_N).reshape(h_NxAxH.shape)
