"""Warnings of methods before a run, from some training examples."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ist_jax.core.task import Task
from ist_jax.core.types import Batch
from ist_jax.data.base import Dataset
from ist_jax.methods import Method
from ist_jax.training.evaluation import whole_batch

EXAMPLES = 32


def method_warnings(methods: Sequence[Method], task: Task, dataset: Dataset) -> list[str]:
    """The warnings of all methods, each once."""

    def batch() -> Batch:
        arrays = {**dataset.calibration(EXAMPLES), **dataset.common.get("train", {})}
        return whole_batch(task, jax.tree.map(jnp.asarray, arrays))

    warnings = itertools.chain(*(method.warnings(batch) for method in methods))
    return list(dict.fromkeys(warnings))
