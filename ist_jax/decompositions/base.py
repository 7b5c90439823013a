"""`decompose` makes a decomposition of any model from a rules table, and checks that they fit."""

from collections.abc import Mapping
from typing import Any

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.partition import partition
from ist_jax.core.types import Rules
from ist_jax.decompositions.checks import check_models
from ist_jax.decompositions.scaling import Scale, with_scaled_sums
from ist_jax.models.linen import as_model

PADDING_REMEDY = (
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
    padding_error: str = PADDING_REMEDY,
    pad_safe: bool = False,
    min_units: int = 0,
    padded: Any = None,
    ordered: bool = False,
    scale: Scale | None = None,
    checks: bool = True,
) -> Decomposition:
    """The decomposition of any model.

    A model is a Linen module, `ist_jax.models.nnx(make)` or another `ist_jax.core.model.Model`.

    Args:
      rules: (path regex, group per axis), or (path regex, None) for a leaf that all subnetworks
        share. The first rule that matches the full name of a parameter wins (`re.fullmatch`). In
        a nested module, that name is 'mlp/hidden/kernel', so write '.*/hidden/kernel'. Every leaf
        needs a rule, and every rule must match a leaf.
      sizes: group -> number of units in the full model.
      num_subnets: S.
      full: the full model.
      subnet: the same model with ceil(size / S) units in every group.
      example: one input, shape (1, ...).
      batch_rules: like `rules`, for the fields of a batch.
      partition_name: see `ist_jax.core.partition`.
      padding_error: ends the error message if S does not divide a group and `pad_safe` is False.
      pad_safe: whether units may be padded, so that S need not divide the sizes. It is safe if
        training keeps the parameters of a zero unit at zero: activations have f(0) = 0, the
        optimizer works per entry, and no norm runs over units.
      min_units: for the partitions 'balanced' and 'blocks', the least number of units that a
        subnetwork holds. If it is above size / S, `subnet` has that many units.
      padded: the same model with S * ceil(size / S) units in every group; see `Decomposition`.
      ordered: whether the order of units matters, as it does for blocks; see `Decomposition`.
      scale: factor on sums over units in the full model, which have S times as many terms as in a
        subnetwork: 'keep' (times 1/S), 'sqrt' (times 1/sqrt(S)), 'none', or a mapping from some
        groups to factors. The parameters that sum over a group are multiplied by it whenever the
        full model is applied. None: nothing is scaled, and a run of `ist` warns if a sum over units
        has neither a norm nor a factor (not if `ordered`, nor for a model above 1 GiB).
      checks: whether to trace the models now, and to compare their sums before a run. Without
        checks, this function is faster, and `ist` finds only some of the errors.

    Raises:
      ValueError: a group has fewer than S units, or S does not divide it and padding is not safe;
        the rules, models and example do not fit together (`check_models`); `scale` names an unknown
        group, or one that no parameter sums over.
      TypeError: `full`, `subnet` or `padded` is not a model.
    """
    parts = partition(partition_name, sizes, num_subnets, min_units=min_units)
    if parts.padded_groups and not pad_safe:
        raise ValueError(
            f"num_subnets={num_subnets} must divide every group, and does not divide "
            f"{parts.padded_groups}: {padding_error}"
        )
    decomposition = Decomposition(
        rules=tuple(rules),
        batch_rules=tuple(batch_rules),
        partition=parts,
        full=as_model(full),
        subnet=as_model(subnet),
        example=example,
        padded=None if padded is None else as_model(padded),
        ordered=ordered,
        checks_scale=checks and scale is None and not ordered,
    )
    if checks:
        check_models(decomposition)
    return decomposition if scale is None else with_scaled_sums(decomposition, scale)
