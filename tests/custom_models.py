"""Models of users, and how they are split: small modules that the conformance suites share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ist_jax import decompose
from ist_jax.decompositions import Decomposition
from ist_jax.models import BatchNorm
from ist_jax.models.residual import repeated

FEATURES, CLASSES = 12, 5
EXAMPLE = jax.ShapeDtypeStruct((1, FEATURES), jnp.float32)


class CustomModule(nn.Module):
    """A user's model: two branches of hidden units that meet, a shared bias, a composite axis."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        left = BatchNorm(name="norm")(nn.Dense(self.width, use_bias=False, name="left")(x))
        right_BxAx2 = nn.tanh(nn.DenseGeneral((self.heads, 2), name="right")(x))
        mixed = nn.relu(left) + nn.DenseGeneral(
            self.width, axis=(-2, -1), use_bias=False, name="mix"
        )(right_BxAx2)
        return nn.Dense(CLASSES, name="head")(mixed)


CUSTOM_RULES = (
    (r"left/kernel", (None, "unit")),
    (r"norm/.*", ("unit",)),
    (r"right/kernel", (None, "head", None)),
    (r"right/bias", ("head", None)),
    (r"mix/kernel", ("head", None, "unit")),
    (r"head/kernel", ("unit", None)),
    (r"head/bias", None),
)


def custom(
    num_subnets: int, partition: str = "balanced", scale: str | None = None
) -> Decomposition:
    return decompose(
        CUSTOM_RULES,
        {"unit": 16, "head": 8},
        num_subnets=num_subnets,
        full=CustomModule(16, 8),
        subnet=CustomModule(-(-16 // num_subnets), -(-8 // num_subnets)),
        example=EXAMPLE,
        partition_name=partition,
        scale=scale,
    )


class Recurrent(nn.Module):
    """Two steps of a recurrent network; one group labels both axes of its kernel."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cell = nn.Dense(self.width, name="recurrent")
        h = nn.tanh(nn.Dense(self.width, use_bias=False, name="input")(x))
        h = nn.tanh(cell(nn.tanh(cell(h))))
        return nn.Dense(CLASSES, name="head")(h)


def recurrent(num_subnets: int, partition: str = "balanced") -> Decomposition:
    return decompose(
        (
            (r"input/kernel", (None, "unit")),
            (r"recurrent/kernel", ("unit", "unit")),
            (r"recurrent/bias", ("unit",)),
            (r"head/kernel", ("unit", None)),
            (r"head/bias", None),
        ),
        {"unit": 18},
        num_subnets=num_subnets,
        full=Recurrent(18),
        subnet=Recurrent(-(-18 // num_subnets)),
        padded=Recurrent(num_subnets * -(-18 // num_subnets)),
        example=EXAMPLE,
        partition_name=partition,
        pad_safe=True,
    )


class Link(nn.Module):
    """A residual block, dense."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = nn.relu(BatchNorm(name="norm")(x))
        return x + self.scale * nn.Dense(x.shape[-1], use_bias=False, name="dense")(inner)


class Chain(nn.Module):
    """Residual blocks whose order matters, as one loop; cheaper to compile than convolutions."""

    depth: int
    sum_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = repeated(Link(self.sum_scale, name="blocks"), self.depth, nn.Dense(8, name="first")(x))
        return nn.Dense(CLASSES, name="head")(x)


def chain(num_subnets: int, partition: str = "balanced", min_units: int = 0) -> Decomposition:
    slots = max(-(-9 // num_subnets), min_units)
    return decompose(
        (
            (r"blocks/.*/kernel", ("block", None, None)),
            (r"blocks/.*/(scale|bias)", ("block", None)),
            (r".*", None),
        ),
        {"block": 9},
        num_subnets=num_subnets,
        full=Chain(9, 1 / num_subnets),
        subnet=Chain(slots),
        example=EXAMPLE,
        partition_name=partition,
        min_units=min_units,
        pad_safe=True,
        ordered=True,
    )
