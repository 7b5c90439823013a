"""The MLP of a Transformer, and kernels without bias. Shape letters: see `transformer`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from ist_jax.core.types import Array

# name -> (activation, whether a second kernel gates it)
MLP_ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "relu": (nn.relu, False),
    "gelu": (nn.gelu, False),
    "swiglu": (nn.silu, True),
}


def linear(
    module: Any, equation: str, shape: Sequence[int], inputs: int, gain: float, name: str
) -> nn.Einsum:
    """The product with a kernel, without bias.

    Args:
      module: whose dtypes the product has.
      equation: of `jnp.einsum`, for the input and the kernel.
      shape: of the kernel. It is drawn in this shape, so that every device of a mesh draws only its
        share.
      inputs: number of leading axes over which the product sums.
      gain: factor of the initial variance, which is otherwise 1 / entries summed over.
      name: of the kernel's module.
    """
    deviation = math.sqrt(gain / math.prod(shape[:inputs]))
    return nn.Einsum(
        tuple(shape),
        equation,
        use_bias=False,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        kernel_init=nn.initializers.normal(deviation),
        name=name,
    )


class Mlp(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) if the activation is gated.

    Attributes:
      neurons: F.
      activation: a name of `MLP_ACTIVATIONS`.
      gain: of the initial kernel of `down`, as a factor of its variance.
      dtype: compute dtype; None: that of inputs and parameters.
      param_dtype: dtype of the parameters.
    """

    neurons: int
    activation: str = "swiglu"
    gain: float = 1.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BxLxD: Array) -> Array:
        shape = (x_BxLxD.shape[-1], self.neurons)
        activation, is_gated = MLP_ACTIVATIONS[self.activation]
        wide = lambda name: linear(self, "bld,df->blf", shape, 1, 1.0, name)(x_BxLxD)
        h_BxLxF = activation(wide("gate")) * wide("up") if is_gated else activation(wide("up"))
        return linear(self, "blf,fd->bld", shape[::-1], 1, self.gain, "down")(h_BxLxF)
