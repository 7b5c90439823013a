"""What a decomposition is: a rules table, a partition, and the model whole and shrunken."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from ist_jax.core.partition import Partition, partition
from ist_jax.core.types import Key, Params, Rules
from ist_jax.models.norm import STATS


class Decomposition(NamedTuple):
    """How a model falls into S subnetworks.

    Attributes:
      rules: over parameter paths: the group of every axis.
      batch_rules: over batch fields, for inputs that are split as well.
      partition: which units each of the S subnetworks holds, drawn anew every round.
      full: the whole model as it is evaluated; its init gives the parameters.
      subnet: the model of one subnetwork.
      example: one input (arrays or ShapeDtypeStructs) with a leading batch axis.
      padded: `full` with S * ceil(N / S) units in every group, so that a model whose groups S does not divide is
        evaluated as it lies on a mesh; None: its units are brought into their original order for that.
      ordered: whether the order of a group's units matters (blocks, one after another, a loop by `models.residual.repeated`),
        so that they are brought into their original order to be evaluated, over a mesh one at a time.
    """

    rules: Rules
    batch_rules: Rules
    partition: Partition
    full: nn.Module
    subnet: nn.Module
    example: Any
    padded: nn.Module | None = None
    ordered: bool = False

    @property
    def num_subnets(self) -> int:
        return self.partition.num_subnets

    def init(self, key: Key) -> Params:
        """The whole model's parameters. Raises ValueError if the model has state beside them."""
        example = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), self.example)
        variables = self.full.init(key, example)
        if others := sorted(set(variables) - {"params", STATS}):
            raise ValueError(
                f"a model's only variables are its parameters; {type(self.full).__name__} has {others}: "
                "use ist_jax.models.BatchNorm, which keeps no running statistics"
            )
        return variables["params"]


def decompose(
    rules: Rules,
    sizes: Mapping[str, int],
    *,
    num_subnets: int,
    full: nn.Module,
    subnet: nn.Module,
    example: Any,
    batch_rules: Rules = ((".*", None),),
    partition_name: str = "balanced",
    padding: str = "choose another num_subnets, or pass pad_safe=True if padded units stay zero in training (relu, gelu, tanh; "
    "SGD, Adam) and give `subnet` ceil(size / num_subnets) units",
    pad_safe: bool = False,
    min_units: int = 0,
    padded: nn.Module | None = None,
    ordered: bool = False,
) -> Decomposition:
    """A decomposition of any Flax model whose `__call__` takes the inputs of a batch.

    Args:
      rules: (path regex, group per axis), first match wins, None for a leaf that all subnetworks share. Every leaf has a rule
        and every rule a leaf, which `ist` checks.
      sizes: group -> number of units in the full model.
      num_subnets: S.
      full: the whole model.
      subnet: the same model with ceil(size / S) units in every group.
      example: one input, shape (1, ...).
      batch_rules: like `rules`, over the fields of a batch.
      partition_name: see `ist_jax.core.partition`.
      padding: why units may not be padded, for the error.
      pad_safe: whether a unit with zero parameters stays zero in training, so that S need not divide the
        sizes: true if activations have f(0) = 0, the optimizer works per entry, and no norm runs over units.
      min_units: for the partitions 'balanced' and 'blocks', that every subnetwork holds at least: where that is more than
        size / S, give `subnet` as many.
      padded: the same model with S * ceil(size / S) units in every group; see `Decomposition`.
      ordered: whether the order of units matters, as that of blocks does; see `Decomposition`.

    Raises:
      ValueError: a group smaller than S, or one that S does not divide though padding is not safe.
    """
    parts = partition(partition_name, sizes, num_subnets, min_units=min_units)
    if parts.padded and not pad_safe:
        raise ValueError(
            f"num_subnets={num_subnets} must divide every group, and does not divide {parts.padded}: {padding}"
        )
    return Decomposition(
        tuple(rules), tuple(batch_rules), parts, full, subnet, example, padded, ordered
    )


def replicated(decomposition: Decomposition, num_subnets: int) -> Decomposition:
    """The same model on `num_subnets` workers, each of which holds all of it: local SGD and data parallel."""
    whole = ((".*", None),)
    parts = partition("fixed", {}, num_subnets)
    return decomposition._replace(
        rules=whole, batch_rules=whole, partition=parts, subnet=decomposition.full, padded=None
    )
