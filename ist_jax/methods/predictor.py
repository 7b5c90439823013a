"""A model as it is evaluated: parameters, and normalisation statistics measured on training data."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh

from ist_jax.core.trees import map_with_names, match
from ist_jax.core.types import Array, Batch, Params, Variables
from ist_jax.decompositions.base import Decomposition
from ist_jax.exchange import Exchange, storage_order
from ist_jax.methods.base import State
from ist_jax.models.norm import STATS
from ist_jax.models.residual import ShardedStack
from ist_jax.tasks.base import Task


def measured(model: nn.Module, task: Task, params: Params, sample: Batch | None) -> Variables:
    """The variables to evaluate `model` with.

    With a sample, the statistics of its norms are measured in one pass over it, so that a prediction is per
    example and does not depend on how the test set is cut. Without one, every norm takes the statistics of
    the batch it sees, as in the authors' code.
    """
    variables: dict[str, Any] = {"params": params}
    if sample is None:
        return variables
    measuring = lambda variables, *inputs: model.apply(variables, *inputs, mutable=[STATS])
    _, updates = task.logits(measuring, variables, sample)
    return variables | dict(updates)


def in_order(
    decomposition: Decomposition, exchange: Exchange, state: State, mesh: Mesh | None
) -> Params:
    """The whole model's parameters in original order.

    Over a mesh, blocks whose order matters stay where they lie, until `models.residual.repeated` asks for one.
    """
    if mesh is None or not exchange.synchronises:
        return exchange.params(state.store, state.indices)[0]
    parts = decomposition.partition
    units = storage_order(parts, state.indices)

    def stays(name: str, leaf: Array) -> Array | ShardedStack:
        group = (match(decomposition.rules, name) or (None,))[0]
        return (
            leaf
            if group is None
            else ShardedStack(leaf, jnp.argsort(units[group])[: parts.sizes[group]], mesh)
        )

    return map_with_names(stays, exchange.stored_params(state.store, state.indices)[0])
