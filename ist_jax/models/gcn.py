"""Graph convolutional networks (Kipf and Welling, ICLR 2017), as in GIST.

GIST: Wolfe et al., 2023, section 2.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.graphs import Graph, Layered, SparseMatrix
from ist_jax.core.types import Array
from ist_jax.models.graphs import activate, layer_dropout, scale_input, symmetric_means
from ist_jax.models.spmm import spmm


class Convolution(nn.Module):
    """propagate(h W) + b, or propagate(h) W + b if h is narrower than h W.

    Attributes:
      width: output features.
      propagate: a linear map over nodes.
      bias: whether to add the bias b.
      param_dtype: dtype of W and b.
    """

    width: int
    propagate: Callable[[Array], Array]
    bias: bool = True
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxD: Array | SparseMatrix) -> Array:
        shape = (h_NxD.shape[1], self.width)
        kernel_DxH = self.param("kernel", nn.initializers.glorot_uniform(), shape, self.param_dtype)
        if self.width < h_NxD.shape[1] or isinstance(h_NxD, SparseMatrix):
            y_NxH = self.propagate(spmm(h_NxD, kernel_DxH))
        else:
            y_NxH = self.propagate(h_NxD) @ kernel_DxH
        if not self.bias:
            return y_NxH
        bias_H = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        return y_NxH + bias_H[None]


class GCN(nn.Module):
    """Graph convolutions hidden_0, hidden_1, ..., output.

    The first sum over neighbours is constant, so it is part of the data: `graph.features` is
    D^-1/2 (A + I) D^-1/2 X (`data.GraphOptions(first_product='symmetric')`). If it is a
    `SparseMatrix`, it is X itself, and the first layer propagates its product with the kernel.

    Attributes:
      hidden: widths of the hidden layers.
      num_classes: width of the logits.
      norm: 'layer' (per node, before the activation), 'matrix' (over all nodes, after it, as in the
        authors' script) or 'none'.
      dropout: probability that an input of a layer is dropped in training.
      input_dropout: whether dropout applies to the first layer, too. In the authors' small-scale
        script it does not.
      bias: whether layers have a bias.
      activation: a name of `ACTIVATIONS`.
      sum_scales: for each layer, a factor on the features that it reads; () for none. A full
        model without norm needs less than 1, since it sums more features than its subnetworks did.
      param_dtype: dtype of the parameters.
    """

    hidden: tuple[int, ...]
    num_classes: int
    norm: str = "none"
    dropout: float = 0.0
    input_dropout: bool = True
    bias: bool = True
    activation: str = "relu"
    sum_scales: tuple[float, ...] = ()
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, graph: Graph | Layered) -> Array:
        means, h = symmetric_means(graph, len(self.hidden) + 1), graph.features
        for i, (width, mean) in enumerate(zip(self.hidden, means)):
            conv = Convolution(width, mean, self.bias, self.param_dtype, name=f"hidden_{i}")
            h = activate(conv(self._input(h, i)), self.norm, self.activation, graph.mask_N)
        output = Convolution(
            self.num_classes, means[-1], self.bias, self.param_dtype, name="output"
        )
        return output(self._input(h, len(self.hidden)))

    def _input(self, h: Array | SparseMatrix, layer: int) -> Array | SparseMatrix:
        return layer_dropout(self, scale_input(h, self.sum_scales, layer), layer)
