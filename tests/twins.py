"""Networks written twice, in Linen and in NNX, with the map between their parameters' names."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from custom_models import CLASSES, CUSTOM_RULES, EXAMPLE, FEATURES, CustomModule
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from ist_jax import decompose
from ist_jax.core.trees import leaf_names, match
from ist_jax.core.types import Rules
from ist_jax.decompositions import Decomposition
from ist_jax.models import NnxBatchNorm, linen
from ist_jax.models import nnx as nnx_model


class NnxCustom(nnx.Module):
    """`CustomModule` in NNX."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.branches = nnx.List(
            [
                nnx.Linear(FEATURES, width, use_bias=False, rngs=rngs),
                nnx.LinearGeneral(FEATURES, (heads, 2), rngs=rngs),
            ]
        )
        self.norm = NnxBatchNorm(width, rngs=rngs)
        self.mix = nnx.LinearGeneral((heads, 2), width, axis=(-2, -1), use_bias=False, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        left, right = self.branches
        return self.head(nnx.relu(self.norm(left(x))) + self.mix(nnx.tanh(right(x))))


class LinenConvolution(nn.Module):
    """Two convolutions on 3 x 4 images, with a norm between them."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (3, 3), use_bias=False, name="first")(x.reshape(-1, 3, 4, 1))
        x = nn.relu(nn.GroupNorm(num_groups=None, group_size=1, name="norm")(x))
        x = nn.relu(nn.Conv(6, (2, 2), strides=2, name="second")(x))
        return nn.Dense(CLASSES, name="output")(x.mean(axis=(1, 2)))


class NnxConvolution(nnx.Module):
    """`LinenConvolution` in NNX."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv_1 = nnx.Conv(1, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.GroupNorm(width, num_groups=None, group_size=1, rngs=rngs)
        self.conv_2 = nnx.Conv(width, 6, (2, 2), strides=2, rngs=rngs)
        self.out = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv_1(x.reshape(-1, 3, 4, 1))))
        return self.out(nnx.relu(self.conv_2(x)).mean(axis=(1, 2)))


def attention(q_BxTxHxK: jax.Array, k_BxTxHxK: jax.Array, v_BxTxHxK: jax.Array) -> jax.Array:
    """Softmax attention over all positions (Vaswani et al., NeurIPS 2017, section 3.2)."""
    scores = jnp.einsum("bqhk,bthk->bhqt", q_BxTxHxK, k_BxTxHxK) / q_BxTxHxK.shape[-1] ** 0.5
    return jnp.einsum("bhqt,bthk->bqhk", jax.nn.softmax(scores), v_BxTxHxK)


class LinenTransformer(nn.Module):
    """One pre-norm block on 3 tokens of 4 features; only heads and neurons are split."""

    heads: int
    width: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(-1, 3, 4)
        y = nn.LayerNorm(name="norm_1")(x)
        q, k, v = (nn.DenseGeneral((self.heads, 2), name=name)(y) for name in "qkv")
        x = x + nn.DenseGeneral(4, axis=(-2, -1), name="o")(attention(q, k, v))
        y = nn.gelu(nn.Dense(self.width, name="up")(nn.LayerNorm(name="norm_2")(x)))
        y = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(y)
        x = x + nn.Dense(4, name="down")(y)
        return nn.Dense(CLASSES, name="output")(x.mean(axis=1))


class NnxTransformer(nnx.Module):
    """`LinenTransformer` in NNX."""

    def __init__(self, heads: int, width: int, dropout: float = 0.0, *, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(4, rngs=rngs) for _ in range(2)])
        self.query, self.key, self.value = (
            nnx.LinearGeneral(4, (heads, 2), rngs=rngs) for _ in range(3)
        )
        self.project = nnx.LinearGeneral((heads, 2), 4, axis=(-2, -1), rngs=rngs)
        self.up, self.down = nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, 4, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(-1, 3, 4)
        y = self.norms[0](x)
        x = x + self.project(attention(self.query(y), self.key(y), self.value(y)))
        x = x + self.down(self.dropout(nnx.gelu(self.up(self.norms[1](x)))))
        return self.head(x.mean(axis=1))


CONVOLUTION_RULES = (
    ("first/kernel", (None, None, None, "filter")),
    ("norm/.*", ("filter",)),
    ("second/kernel", (None, None, "filter", None)),
    (".*", None),
)
TRANSFORMER_RULES = (
    ("[qkv]/kernel", (None, "head", None)),
    ("[qkv]/bias", ("head", None)),
    ("o/kernel", ("head", None, None)),
    ("up/kernel", (None, "neuron")),
    ("up/bias", ("neuron",)),
    ("down/kernel", ("neuron", None)),
    (".*", None),
)


class Twins(NamedTuple):
    """A network in both frameworks.

    Attributes:
      linen: the class of the Linen module; its arguments are the groups' sizes.
      nnx: that of the NNX module.
      rules: of the Linen module.
      sizes: group -> number of units, in the order of the modules' arguments.
      names: the first part of a parameter's name in Linen -> that in NNX, where they differ.
    """

    linen: Any
    nnx: Any
    rules: Rules
    sizes: dict[str, int]
    names: dict[str, str]

    def to_nnx(self, params: Any) -> Any:
        """The parameters of the Linen module, as those of the NNX module."""
        flat = flatten_dict(params, sep="/")
        return unflatten_dict({self._nnx_name(name): leaf for name, leaf in flat.items()}, sep="/")

    def _nnx_name(self, name: str) -> str:
        first, rest = name.split("/", 1)
        return f"{self.names.get(first, first)}/{rest}"

    def model(self, framework: str, num_subnets: int = 1) -> Any:
        """The model of a subnetwork in 'linen' or 'nnx'."""
        sizes = [size // num_subnets for size in self.sizes.values()]
        if framework == "linen":
            return linen(self.linen(*sizes))
        return nnx_model(lambda rngs: self.nnx(*sizes, rngs=rngs))

    def decomposition(
        self, framework: str, num_subnets: int, partition: str = "balanced"
    ) -> Decomposition:
        """The decomposition of the model in 'linen' or 'nnx'."""
        rules = self.rules
        if framework == "nnx":
            shapes = jax.eval_shape(self.model("linen").init, jax.random.key(0), EXAMPLE)
            rules = [(self._nnx_name(name), match(rules, name)) for name in leaf_names(shapes)]
        return decompose(
            rules,
            self.sizes,
            num_subnets=num_subnets,
            full=self.model(framework),
            subnet=self.model(framework, num_subnets),
            example=EXAMPLE,
            partition_name=partition,
        )


TWINS = {
    "mlp": Twins(
        CustomModule,
        NnxCustom,
        CUSTOM_RULES,
        {"unit": 16, "head": 8},
        {"left": "branches/0", "right": "branches/1"},
    ),
    "convolution": Twins(
        LinenConvolution,
        NnxConvolution,
        CONVOLUTION_RULES,
        {"filter": 8},
        {"first": "conv_1", "second": "conv_2", "output": "out"},
    ),
    "transformer": Twins(
        LinenTransformer,
        NnxTransformer,
        TRANSFORMER_RULES,
        {"head": 4, "neuron": 8},
        {
            "norm_1": "norms/0",
            "norm_2": "norms/1",
            "q": "query",
            "k": "key",
            "v": "value",
            "o": "project",
            "output": "head",
        },
    ),
}


nnx_custom = functools.partial(TWINS["mlp"].decomposition, "nnx")
