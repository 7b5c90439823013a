"""A tiny network without Flax, which compiles sooner: how it is split, and plain training of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import BATCH, CLASSES, EXAMPLE, FEATURES, ROOT, TASK, dataset, params_of, rounds

from ist_jax import data_parallel, decompose, ist
from ist_jax.core.keys import named_key
from ist_jax.core.placement import looped
from ist_jax.core.sample_order import draw

RULES = (
    ("hidden/kernel", (None, "unit")),
    ("hidden/bias", ("unit",)),
    ("output/kernel", ("unit", None)),
)


class Tiny:
    """One hidden layer of tanh units."""

    def __init__(self, width):
        self.width = width

    def init(self, key, example):
        first, second = jax.random.split(key)
        hidden = {
            "kernel": jax.random.normal(first, (FEATURES, self.width)) / 4,
            "bias": jnp.zeros(self.width),
        }
        output = {"kernel": jax.random.normal(second, (self.width, CLASSES)) / 2}
        return {"hidden": hidden, "output": output}

    def apply(self, params, inputs, *, key=None, stats=None):
        hidden = params["hidden"]
        units_BxH = jnp.tanh(inputs @ hidden["kernel"] + hidden["bias"][None])
        return units_BxH @ params["output"]["kernel"]

    def measure(self, params, inputs):
        return {}


def tiny(num_subnets):
    return decompose(
        RULES,
        {"unit": 4},
        num_subnets=num_subnets,
        full=Tiny(4),
        subnet=Tiny(4 // num_subnets),
        example=EXAMPLE,
    )


@functools.cache
def blobs():
    return dataset()


def trained(tx, opt_state, steps):
    """The parameters after two rounds of one worker."""
    if opt_state == "data_parallel":
        make, options = data_parallel, dict(num_workers=1)
    else:
        make, options = ist, dict(opt_state=opt_state)
    method = make(tiny(1), TASK, tx, batch_size=BATCH, placement=looped(), **options)
    state, _ = rounds(method, 2, steps, blobs())
    return params_of(method, state)


def plainly_trained(tx, steps):
    """The parameters at the start and after a loop as anybody would write it.

    Twice `steps` steps: the optimizer's state is initialised anew between ('reset'), or goes on.
    """
    here, split = jax.sharding.SingleDeviceSharding(jax.devices()[0]), tiny(1)
    view = next(blobs().views(jax.random.key(5), 1, here, [range(1)]))

    @jax.jit
    def step(params, opt_state, position):
        index_B = draw(view, jnp.int32(0), position, BATCH)
        batch = TASK.batch(view.arrays, index_B, None)
        gradient = jax.grad(lambda p: TASK.loss(split.full, p, batch, ROOT)[0])(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    init, start = jax.jit(tx.init), split.init(named_key(ROOT, "init"))

    def train(keeps):
        params, opt_state = start, init(start)
        for number in range(2 * steps):
            if number == steps and not keeps:
                opt_state = init(params)
            params, opt_state = step(params, opt_state, jnp.int32(BATCH * number))
        return params

    return {"start": start, "reset": train(keeps=False), "carry": train(keeps=True)}


def assert_alike(params, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, expected
    )


def distance(params, others):
    """The largest difference of two entries."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), params, others)))
