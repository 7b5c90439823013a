"""Graph attention networks (Velickovic et al., ICLR 2018).

Shape letters: A heads of a layer, G heads of the layer before, N nodes, W neighbours of a row,
R overflow rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ist_jax.core.graphs import Graph
from ist_jax.core.types import Array
from ist_jax.models.graphs import activate, layer_dropout


def _weighted_sum(weight_RxWxA: Array, z_NxAxH: Array, index_RxW: Array) -> Array:
    """[R, A, H]: weighted sums over the W nodes of each row. Index N means no node.

    The sum adds one node per row at a time, and gathers it again for the gradient. The features of
    all E edges at once would take E / N times the memory of all nodes' features.
    """

    @jax.checkpoint
    def add(total: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        weight_RxA, index_R = entry
        z_RxAxH = z_NxAxH.at[index_R].get(mode="fill", fill_value=0)
        return total + weight_RxA[:, :, None] * z_RxAxH, None

    total = jnp.zeros((index_RxW.shape[0], *z_NxAxH.shape[1:]), z_NxAxH.dtype)
    return jax.lax.scan(add, total, (jnp.moveaxis(weight_RxWxA, 1, 0), index_RxW.T))[0]


def _attend(z_NxAxH: Array, to_NxA: Array, from_NxA: Array, graph: Graph) -> Array:
    """[N, A, H]: for each node, the softmax-weighted mean over itself and its neighbours.

    The logit of an edge is leaky_relu(to[receiver] + from[sender]).
    """
    num_nodes, receiver_R, rest_RxW = z_NxAxH.shape[0], graph.receiver_R, graph.overflow_RxW
    self_Nx1 = jnp.arange(num_nodes, dtype=jnp.int32)[:, None]
    near_NxW = jnp.concatenate([self_Nx1, graph.neighbours_NxW], axis=1)

    def logits(to: Array, index: Array) -> Array:
        sender = from_NxA.at[index].get(mode="fill", fill_value=-jnp.inf)
        return nn.leaky_relu(to[:, None] + sender, 0.2)

    def segment_sum(x_RxA: Array) -> Array:
        return jax.ops.segment_sum(x_RxA, receiver_R, num_nodes, indices_are_sorted=True)

    near_NxWxA, rest_RxWxA = logits(to_NxA, near_NxW), logits(to_NxA[receiver_R], rest_RxW)
    highest_NxA = jax.ops.segment_max(
        rest_RxWxA.max(axis=1), receiver_R, num_nodes, indices_are_sorted=True
    )
    highest_NxA = jax.lax.stop_gradient(jnp.maximum(near_NxWxA.max(axis=1), highest_NxA))
    near_NxWxA = jnp.exp(near_NxWxA - highest_NxA[:, None])
    rest_RxWxA = jnp.exp(rest_RxWxA - highest_NxA[receiver_R][:, None])
    total_NxA = near_NxWxA.sum(axis=1) + segment_sum(rest_RxWxA.sum(axis=1))
    near_NxAxH = _weighted_sum(near_NxWxA, z_NxAxH, near_NxW)
    rest_NxAxH = segment_sum(_weighted_sum(rest_RxWxA, z_NxAxH, rest_RxW))
    return (near_NxAxH + rest_NxAxH) / total_NxA[:, :, None]


class Project(nn.Module):
    """[N, heads before, D] to [N, heads, H], without bias.

    The kernel is initialised in its final shape, so that every device of a mesh draws only its
    share. nn.DenseGeneral would initialise a matrix.
    """

    heads: int
    width: int
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxGxD: Array) -> Array:
        glorot = nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=(2, 3))
        shape = (*h_NxGxD.shape[1:], self.heads, self.width)
        kernel = self.param("kernel", glorot, shape, self.param_dtype)
        return jnp.tensordot(h_NxGxD, kernel, axes=((1, 2), (0, 1)))


class Attention(nn.Module):
    """All heads of a layer: [N, heads before, D] to [N, heads, H] (Velickovic et al., eq. 1 to 5).

    Attributes:
      heads: number of heads.
      width: H, features of one head.
      concatenated: whether the result has an axis of heads; if not, it is their mean [N, H].
      bias: whether to add a bias.
      param_dtype: dtype of the parameters.
    """

    heads: int
    width: int
    concatenated: bool = True
    bias: bool = True
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxGxD: Array, graph: Graph) -> Array:
        z_NxAxH = Project(self.heads, self.width, self.param_dtype, name="project")(h_NxGxD)
        to_NxA, from_NxA = self._score("receiver", z_NxAxH), self._score("sender", z_NxAxH)
        y_NxAxH = _attend(z_NxAxH, to_NxA, from_NxA, graph)
        y = y_NxAxH if self.concatenated else y_NxAxH.mean(axis=1)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, y.shape[1:], self.param_dtype)[None]

    def _score(self, name: str, z_NxAxH: Array) -> Array:
        """[N, A]: the part of an edge's logit that depends on its receiver or its sender."""
        glorot, shape = nn.initializers.glorot_uniform(), (self.heads, self.width)
        return (z_NxAxH * self.param(name, glorot, shape, self.param_dtype)[None]).sum(axis=-1)


class GAT(nn.Module):
    """Attention layers hidden_0, hidden_1, ..., output.

    The heads of hidden layers are concatenated; those of the output are averaged.

    Attributes:
      hidden: features per head of every hidden layer.
      heads: number of heads of every layer.
      Others: see `GCN`. The norm 'layer' runs over the features of all heads of a node.
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
            h_NxAxH = self._layer(width, f"hidden_{i}", True)(
                layer_dropout(self, h_NxAxH, i), graph
            )
            h_NxAxH = self._activate(h_NxAxH, graph)
        output = self._layer(self.num_classes, "output", False)
        return output(layer_dropout(self, h_NxAxH, len(self.hidden)), graph)

    def _layer(self, width: int, name: str, concatenated: bool) -> Attention:
        return Attention(self.heads, width, concatenated, self.bias, self.param_dtype, name=name)

    def _activate(self, h_NxAxH: Array, graph: Graph) -> Array:
        flat = h_NxAxH.reshape(h_NxAxH.shape[0], -1)
        return activate(flat, self.norm, self.activation, graph.mask_N).reshape(h_NxAxH.shape)
