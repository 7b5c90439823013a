"""Graph convolutional networks (Kipf and Welling, ICLR 2017), as GIST trains them (Wolfe et al., 2023, section 2)."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.types import Array, Graph, Layered, Sparse
from ist_jax.models.graphs import activated, dropped_in, scaled, symmetric_means, times


class Convolution(nn.Module):
    """propagate(h) W + b; the narrower of the two, h or h W, is what is propagated.

    Attributes:
      width: output features.
      propagate: a linear map over nodes.
      bias: whether there is a b.
      param_dtype: dtype of W and b.
    """

    width: int
    propagate: Callable[[Array], Array]
    bias: bool = True
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_NxD: Array | Sparse) -> Array:
        shape = (h_NxD.shape[1], self.width)
        kernel_DxH = self.param("kernel", nn.initializers.glorot_uniform(), shape, self.param_dtype)
        kernel_first = self.width < h_NxD.shape[1] or isinstance(h_NxD, Sparse)
        y_NxH = (
            self.propagate(times(h_NxD, kernel_DxH))
            if kernel_first
            else self.propagate(h_NxD) @ kernel_DxH
        )
        if self.bias:
            y_NxH = (
                y_NxH
                + self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)[None]
            )
        return y_NxH


class GCN(nn.Module):
    """Graph convolutions with names hidden_0, hidden_1, ..., output.

    The first one's sum over neighbours is constant and computed with the data: `graph.features` are D^-1/2 (A + I) D^-1/2 X
    (`data.GraphOptions(first_product='symmetric')`); or, of features that are `Sparse`, X itself, whose product with the kernel
    comes first.

    Attributes:
      hidden: widths of the hidden layers.
      num_classes: width of the logits.
      norm: 'layer' (per node, before the activation), 'matrix' (all nodes together, after it, as the authors do) or 'none'.
      dropout: probability that an input of a layer is zero in training.
      input_dropout: whether that holds for the first layer, too (the authors' small-scale script leaves it out there).
      bias: whether layers have a bias.
      activation: a name of `ACTIVATIONS`.
      sum_scales: of every layer, a factor on the features that it reads, () for none: less than 1 in a full model that has no
        norm and sums more features than the subnetworks were trained with.
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
        for i, (width, over_nodes) in enumerate(zip(self.hidden, means)):
            conv = Convolution(width, over_nodes, self.bias, self.param_dtype, name=f"hidden_{i}")
            h = activated(conv(self._read(h, i)), self.norm, self.activation, graph.mask_N)
        output = Convolution(
            self.num_classes, means[-1], self.bias, self.param_dtype, name="output"
        )
        return output(self._read(h, len(self.hidden)))

    def _read(self, h: Array | Sparse, layer: int) -> Array | Sparse:
        return dropped_in(self, scaled(h, self.sum_scales, layer), layer)
