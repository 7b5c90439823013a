"""GraphSAGE with the mean over neighbours (Hamilton et al., NeurIPS 2017), as in GIST.

GIST: Wolfe et al., 2023, appendix A.
"""

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.graphs import Graph, Layered
from ist_jax.core.types import Array
from ist_jax.models.graphs import (
    activate,
    check_layers,
    layer_dropout,
    scale_input,
    with_neighbours,
)


class GraphSAGE(nn.Module):
    """Layers hidden_0, hidden_1, ..., output over pairs (node, mean of its neighbours).

    Kernels have the shape (2, D, H), so that a unit of the previous layer is one index of axis D,
    for a node and for its neighbours. The first layer's means are constant, so they are part of
    the data: `graph.features` has the shape (N, 2, D)
    (`data.GraphOptions(first_product='mean')`). As in the authors' code, a layer is mean, dropout,
    product, norm and activation, in this order.

    Attributes: see `GCN`.
    """

    hidden: tuple[int, ...]
    num_classes: int
    norm: str = "layer"
    dropout: float = 0.0
    input_dropout: bool = True
    bias: bool = True
    activation: str = "relu"
    sum_scales: tuple[float, ...] = ()
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, graph: Graph | Layered) -> Array:
        check_layers(graph, len(self.hidden))
        pair_Nx2xD = graph.features
        for i, width in enumerate(self.hidden):
            h = self._dense(width, f"hidden_{i}")(self._input(pair_Nx2xD, i))
            h = activate(h, self.norm, self.activation, graph.mask_N)
            pair_Nx2xD = with_neighbours(h, graph, i)
        return self._dense(self.num_classes, "output")(self._input(pair_Nx2xD, len(self.hidden)))

    def _input(self, pair_Nx2xD: Array, layer: int) -> Array:
        return layer_dropout(self, scale_input(pair_Nx2xD, self.sum_scales, layer), layer)

    def _dense(self, width: int, name: str) -> nn.DenseGeneral:
        return nn.DenseGeneral(
            width, axis=(-2, -1), use_bias=self.bias, param_dtype=self.param_dtype, name=name
        )
