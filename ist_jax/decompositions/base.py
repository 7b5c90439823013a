"""From a rules table to a decomposition."""

from collections.abc import Mapping
from typing import Any

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.partition import partition
from ist_jax.core.types import Rules
from ist_jax.models.linen import as_model

PADDING = (
    "choose another num_subnets, or pass pad_safe=True if padded units stay zero in training "
    "(relu, gelu, tanh; SGD, Adam) and give `subnet` ceil(size / num_subnets) units"
)


def decompose(
    rules: Rules,
    sizes: Mapping[str, int],
    *,
    num_subnets: int,
    full: Any,
    subnet: Any,
    example: Any,
    batch_rules: Rules = ((".*", None),),
    partition_name: str = "balanced",
    padding: str = PADDING,
    pad_safe: bool = False,
    min_units: int = 0,
    padded: Any = None,
    ordered: bool = False,
) -> Decomposition:
    """A decomposition of any model. Models are Linen modules, or `ist_jax.core.model.Model`s.

    Args:
      rules: (path regex, group per axis); the first match wins. None stands for a leaf that all
        subnetworks share. Every leaf has a rule and every rule a leaf, which `ist` checks.
      sizes: group -> number of units in the full model.
      num_subnets: S.
      full: the full model.
      subnet: the same model with ceil(size / S) units in every group.
      example: one input, shape (1, ...).
      batch_rules: like `rules`, over the fields of a batch.
      partition_name: see `ist_jax.core.partition`.
      padding: the error's remedy where S does not divide a group and units may not be padded.
      pad_safe: whether a unit whose parameters are zero keeps them in training, so that S need
        not divide the sizes. That is so if activations have f(0) = 0, the optimizer works per
        entry, and no norm runs over units.
      min_units: for the partitions 'balanced' and 'blocks', how many units every subnetwork holds
        at least. Where that is more than size / S, `subnet` has as many.
      padded: the same model with S * ceil(size / S) units in every group; see `Decomposition`.
      ordered: whether the order of units matters, as that of blocks does; see `Decomposition`.

    Raises:
      ValueError: a group is smaller than S, or S does not divide one that may not be padded.
      TypeError: `full`, `subnet` or `padded` is no model.
    """
    parts = partition(partition_name, sizes, num_subnets, min_units=min_units)
    if parts.padded and not pad_safe:
        raise ValueError(
            f"num_subnets={num_subnets} must divide every group, and does not divide "
            f"{parts.padded}: {padding}"
        )
    return Decomposition(
        rules=tuple(rules),
        batch_rules=tuple(batch_rules),
        partition=parts,
        full=as_model(full),
        subnet=as_model(subnet),
        example=example,
        padded=None if padded is None else as_model(padded),
        ordered=ordered,
    )
