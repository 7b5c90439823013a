"""A model as it is evaluated: parameters, and normalisation statistics measured on training data."""

from typing import Any

import flax.linen as nn

from ist_jax.models.norm import STATS
from ist_jax.tasks.base import Task
from ist_jax.types import Batch, Params, Variables


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
