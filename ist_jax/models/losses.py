"""Auxiliary losses: what a module adds to the task's loss in training, such as load balancing."""

import operator

import flax.linen as nn
import jax.numpy as jnp

from ist_jax.core.types import Array

LOSSES = "losses"


def add_loss(module: nn.Module, value: Array) -> None:
    """Adds a scalar to the loss of this step. It has no effect in evaluation."""
    if not module.is_initializing():
        zero = lambda: jnp.zeros((), value.dtype)
        module.sow(LOSSES, "auxiliary", value, init_fn=zero, reduce_fn=operator.add)
