"""`decompose` finds before training what does not fit together, and says how to mend it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from custom_models import EXAMPLE
from flax import nnx

from ist_jax import decompose
from ist_jax.models import nnx as nnx_model


class Net(nn.Module):
    """Two layers, and what users may do wrong in them."""

    width: int
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        if self.fault == "dropout":
            x = nn.Dropout(0.5, deterministic=False)(x)
        if self.fault == "statistics":
            x = nn.BatchNorm(use_running_average=False)(x)
        y = nn.Dense(3, name="output")(x)
        return (y, x) if self.fault == "tuple" else y


class NnxNet(nnx.Module):
    """`Net` in NNX."""

    def __init__(self, width, *, rngs):
        self.hidden = nnx.Linear(EXAMPLE.shape[1], width, rngs=rngs)
        self.output = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


RULES = (
    ("hidden/kernel", (None, "unit")),
    ("hidden/bias", ("unit",)),
    ("output/kernel", ("unit", None)),
    ("output/bias", None),
)
made = functools.partial(
    decompose, RULES, {"unit": 8}, num_subnets=2, full=Net(8), subnet=Net(4), example=EXAMPLE
)
wide = lambda width: nnx_model(lambda rngs: NnxNet(width, rngs=rngs))


def test_parts_that_fit_are_accepted():
    for split in (made(), made(full=wide(8), subnet=wide(4))):
        assert split.num_subnets == 2 and split.partition.slots == {"unit": 4}


@pytest.mark.parametrize(
    "options,says",
    [
        (
            dict(subnet=Net(5)),
            r"hidden/bias has shape \[5\] in the subnetwork's model and \[4\] by the rules",
        ),
        (
            dict(full=wide(8), subnet=wide(5)),
            r"hidden/bias has shape \[5\] in the subnetwork's model and \[4\] by the rules",
        ),
        (
            dict(full=Net(9)),
            "axis 0 of 'hidden/bias' has length 9, group 'unit' has 8 units",
        ),
        (dict(full=Net(8, "tuple")), "`full` returns a tuple of 2 values: leave the others out"),
        (dict(subnet=Net(4, "tuple")), "`subnet` returns a tuple of 2 values"),
        (
            dict(full=Net(8, "dropout")),
            "write nn.Dropout.rate, deterministic=not self.has_rng",
        ),
        (dict(full=Net(8, "statistics")), "Net has .*: use ist_jax.models.BatchNorm"),
        (
            dict(example=jax.ShapeDtypeStruct((1, 7), jnp.float32), full=wide(8), subnet=wide(4)),
            r"`full` fails on the example, of shape \[1, 7\] .*with a leading batch axis",
        ),
        (
            dict(example=jax.ShapeDtypeStruct((), jnp.float32)),
            r"`full` fails on the example, of shape \[\] .*with a leading batch axis",
        ),
    ],
    ids=[
        "subnet",
        "nnx-subnet",
        "full",
        "tuple",
        "subnet-tuple",
        "dropout",
        "statistics",
        "nnx-example",
        "example",
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(options, says):
    with pytest.raises(ValueError, match=says) as error:
        made(**options)
    assert "\n" not in str(error.value)


def test_a_rule_without_a_leaf_is_refused():
    with pytest.raises(ValueError, match="'outptu/bias' matches none .nearest is 'output/bias'.*"):
        decompose(
            (*RULES, ("outptu/bias", None)),
            {"unit": 8},
            num_subnets=2,
            full=Net(8),
            subnet=Net(4),
            example=EXAMPLE,
        )
