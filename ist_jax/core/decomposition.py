"""What a decomposition is: a rules table, a partition, the full model and its subnetworks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core.model import Model
from ist_jax.core.partition import Partition, partition
from ist_jax.core.types import Key, Params, Rules


class Decomposition(NamedTuple):
    """How a model falls into S subnetworks.

    Attributes:
      rules: over parameter paths: the group of every axis.
      batch_rules: over batch fields, for inputs that are split as well.
      partition: which units each of the S subnetworks holds, drawn anew every round.
      full: the full model, which is evaluated; its `init` gives the parameters.
      subnet: the model of one subnetwork.
      example: one input (arrays or ShapeDtypeStructs) with a leading batch axis.
      padded: `full` with S * ceil(N / S) units in every group. With it, a model whose groups S
        does not divide is evaluated in storage order; None: its units are first brought into
        their original order.
      ordered: whether the order of a group's units matters, as that of blocks in a loop
        (`models.residual.repeated`) does. Such units are brought into their original order to be
        evaluated, over a mesh one at a time.
    """

    rules: Rules
    batch_rules: Rules
    partition: Partition
    full: Model
    subnet: Model
    example: Any
    padded: Model | None = None
    ordered: bool = False

    @property
    def num_subnets(self) -> int:
        return self.partition.num_subnets

    def init(self, key: Key) -> Params:
        """The full model's parameters. Raises ValueError if the model has state beside them."""
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
    )
