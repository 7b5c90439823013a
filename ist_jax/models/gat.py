"""Graph attention networks (Velickovic et al., ICLR 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Graph
from ist_jax.models.graphs import activated, dropped_in


def _attended(weight_RxWxA: Array, z_NxAxH: Array, index_RxW: Array) -> Array:
    """[R, A, H]: weighted sums over W nodes, of which N is none.

    One node of every row after another, gathered anew for gradients: all edges at once would be E / N times the features.
    """

    @jax.checkpoint
    def add(total: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        weight_RxA, index_R = entry
        return total + weight_RxA[:, :, None] * z_NxAxH.at[index_R].get(
            mode="fill", fill_value=0
        ), None

    total = jnp.zeros((index_RxW.shape[0], *z_NxAxH.shape[1:]), z_NxAxH.dtype)
    return jax.lax.scan(add, total, (jnp.moveaxis(weight_RxWxA, 1, 0), index_RxW.T))[0]


def _attention(z_NxAxH: Array, to_NxA: Array, from_NxA: Array, graph: Graph) -> Array:
    """[N, A, H]: of every node, the mean of its own and its neighbours' features, weighted by a softmax over them."""
    num_nodes, receiver_R, rest_RxW = z_NxAxH.shape[0], graph.receiver_R, graph.overflow_RxW
    near_NxW = jnp.concatenate(
        [jnp.arange(num_nodes, dtype=jnp.int32)[:, None], graph.neighbours_NxW], axis=1
    )
    nodes = lambda index_RxW: from_NxA.at[index_RxW].get(mode="fill", fill_value=-jnp.inf)
    near_NxWxA = nn.leaky_relu(to_NxA[:, None] + nodes(near_NxW), 0.2)
    rest_RxWxA = nn.leaky_relu(to_NxA[receiver_R][:, None] + nodes(rest_RxW), 0.2)
    further_NxA = jax.ops.segment_max(
        rest_RxWxA.max(axis=1), receiver_R, num_nodes, indices_are_sorted=True
    )
    highest_NxA = jax.lax.stop_gradient(jnp.maximum(near_NxWxA.max(axis=1), further_NxA))
    near_NxWxA = jnp.exp(near_NxWxA - highest_NxA[:, None])
    rest_RxWxA = jnp.exp(rest_RxWxA - highest_NxA[receiver_R][:, None])
    added = lambda near, rest: (
        near + jax.ops.segment_sum(rest, receiver_R, num_nodes, indices_are_sorted=True)
    )
    total_NxA = added(near_NxWxA.sum(axis=1), rest_RxWxA.sum(axis=1))
    return (
        added(_attended(near_NxWxA, z_NxAxH, near_NxW), _attended(rest_RxWxA, z_NxAxH, rest_RxW))
        / total_NxA[:, :, None]
    )


class Project(nn.Module):
    """[N, heads in, D] to [N, heads, H], without bias.

    Its kernel is drawn in its own shape, so that every device of a mesh draws a share of it; nn.DenseGeneral draws a matrix.
    """

    heads: int
    width: int
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxGxD: Array) -> Array:
        glorot = nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=(2, 3))
        shape = (*h_NxGxD.shape[1:], self.heads, self.width)
        return jnp.tensordot(
            h_NxGxD, self.param("kernel", glorot, shape, self.param_dtype), axes=((1, 2), (0, 1))
        )


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
        shape, glorot = (self.heads, self.width), nn.initializers.glorot_uniform()
        z_NxAxH = Project(self.heads, self.width, self.param_dtype, name="project")(h_NxGxD)
        of_node = lambda name: (
            z_NxAxH * self.param(name, glorot, shape, self.param_dtype)[None]
        ).sum(axis=-1)
        y_NxAxH = _attention(z_NxAxH, of_node("receiver"), of_node("sender"), graph)
        y = y_NxAxH if self.concatenated else y_NxAxH.mean(axis=1)
        return (
            y + self.param("bias", nn.initializers.zeros, y.shape[1:], self.param_dtype)[None]
            if self.bias
            else y
        )


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
    input_dropout: bool = True
    bias: bool = True
    activation: str = "elu"
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, graph: Graph) -> Array:
        h_NxAxH = graph.features[:, None]
        for i, width in enumerate(self.hidden):
            h_NxAxH = self._layer(width, f"hidden_{i}", True)(dropped_in(self, h_NxAxH, i), graph)
            h_NxAxH = self._activated(h_NxAxH, graph)
        return self._layer(self.num_classes, "output", False)(
            dropped_in(self, h_NxAxH, len(self.hidden)), graph
        )

    def _layer(self, width: int, name: str, concatenated: bool) -> Attention:
        return Attention(self.heads, width, concatenated, self.bias, self.param_dtype, name=name)

    def _activated(self, h_NxAxH: Array, graph: Graph) -> Array:
        flat = h_NxAxH.reshape(h_NxAxH.shape[0], -1)
        return activated(flat, self.norm, self.activation, graph.mask_N).reshape(h_NxAxH.shape)
