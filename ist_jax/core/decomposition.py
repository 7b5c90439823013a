"""Decompositions: a rules table, a partition, the full model and the model of a subnetwork."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core.model import Model
from ist_jax.core.partition import Partition, partition
from ist_jax.core.types import Key, Params, Rules


class Decomposition(NamedTuple):
    """How a model is split into S subnetworks.

    Attributes:
      rules: for each parameter path, the group of every axis.
      batch_rules: the same for the fields of a batch, where inputs are split as well.
      partition: which units each of the S subnetworks holds, drawn anew every round.
      full: the full model. Its `init` gives the parameters, and evaluation runs it.
      subnet: the model of one subnetwork.
      example: one input (arrays or ShapeDtypeStructs) with a leading batch axis.
      padded: `full` with S * ceil(N / S) units in every group. If S does not divide a group,
        this model evaluates parameters in storage order. Without it, evaluation restores the
        original order first.
      ordered: whether the order of a group's units matters, as it does for blocks in a loop
        (`models.residual.repeated`). Evaluation restores their original order; over a mesh, it
        fetches one block at a time.
      checks_scale: whether a run first compares the full model with a subnetwork, and warns if the
        full model's sums over units are larger (`methods.scale_check`).
    """

    rules: Rules
    batch_rules: Rules
    partition: Partition
    full: Model
    subnet: Model
    example: Any
    padded: Model | None = None
    ordered: bool = False
    checks_scale: bool = False

    @property
    def num_subnets(self) -> int:
        return self.partition.num_subnets

    def init(self, key: Key) -> Params:
        """Fresh parameters. Raises ValueError if the model has variables other than parameters."""
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.example)
        return self.full.init(key, example)


def replicated(decomposition: Decomposition, num_workers: int) -> Decomposition:
    """The full model on each of `num_workers` workers, as in local SGD and data parallel."""
    no_groups = ((".*", None),)
    return decomposition._replace(
        rules=no_groups,
        batch_rules=no_groups,
        partition=partition("fixed", {}, num_workers),
        subnet=decomposition.full,
        padded=None,
        checks_scale=False,
    )
