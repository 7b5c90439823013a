"""Shared parts of the decompositions of graph networks (GIST; Wolfe et al., 2023, Algorithm 1).

The features of every hidden layer are split among the sub-GCNs. Each holds 1/S^2 of a
hidden-to-hidden matrix. Input features and logits are shared by default. The paper's Table 1
compares which features are split.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.graphs import Graph
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.scaling import factor
from ist_jax.models.mlp import ACTIVATIONS


def example_graph(*feature_axes: int) -> Graph:
    """The shapes of a graph with one node, for initialising parameters."""
    floats = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *feature_axes), (1,), (1,))
    ]
    integers = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, 1), (0, 1), (0,))]
    return Graph(*floats, *integers)


def padding_problem(norm: str, activation: str) -> str:
    """Why a layer's features may not be padded with zeros; '' if they may."""
    if norm != "none":
        return "normalisation runs over the features, and padded ones would count"
    if float(ACTIVATIONS[activation](0.0)) != 0.0:
        return f"activation {activation!r} is not 0 at 0, so padded features would not stay zero"
    return ""


def feature_groups(
    hidden: tuple[int, ...], split_input: bool, split_output: bool
) -> list[str | None]:
    """The groups of the features that the layers read: d0, d1, ... of the paper's Table 1."""
    inner = [f"hidden_{i}" for i in range(len(hidden))]
    groups: list[str | None] = ["input" if split_input else None, *inner]
    return groups if split_output else [*groups[:-1], None]


def decompose_graph(
    model: Any,
    num_features: int,
    rules: Callable[[list[str | None]], Rules],
    feature_axes: tuple[int, ...],
    *,
    num_subnets: int,
    partition: str = "balanced",
    split_input: bool = False,
    split_output: bool = True,
    scaling: str = "none",
) -> Decomposition:
    """The decomposition of a graph network.

    Args:
      model: the full network.
      num_features: D.
      rules: groups of d0, d1, ... -> rules table.
      feature_axes: lengths of the axes of `Graph.features` after the node axis; the last is D.
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      split_input: whether input features are split, too (it hurts; see the paper's Table 1).
      split_output: whether the last hidden layer is split, which the output layer reads (the
        authors' name).
      scaling: of sums over split features in the full model; see `mlp`. GAT has none, since its
        attention has other sums.

    Raises:
      ValueError: no layer is split, a layer is narrower than S, or S does not divide a layer whose
        features may not be padded.
    """
    groups = feature_groups(model.hidden, split_input, split_output)
    widths = num_features, *model.hidden
    sizes = {group: width for group, width in zip(groups, widths) if group is not None}
    if not sizes:
        raise ValueError(
            "a decomposition splits the features of at least one layer: "
            "use split_input or split_output"
        )
    is_uneven = any(size % num_subnets for group, size in sizes.items() if group != "input")
    # padded input features are 0 and have no effect
    problem = padding_problem(model.norm, model.activation) if is_uneven else ""
    hidden = list(zip(groups[1:], model.hidden))
    slots = tuple(-(-width // num_subnets) if group else width for group, width in hidden)
    padded = tuple(num_subnets * n if group else n for group, n in zip(groups[1:], slots))
    full = _scaled(model, groups, factor(scaling, 1 / num_subnets))
    axes = (None,) * len(feature_axes) + ("input",)
    input_rule = ((r"x/features", axes),) if split_input else ()
    return decompose(
        [rule for rule in rules(groups) if model.bias or not rule[0].endswith("/bias")],
        sizes,
        num_subnets=num_subnets,
        full=full,
        subnet=model.clone(hidden=slots),
        padded=full.clone(hidden=padded),
        example=example_graph(*feature_axes),
        batch_rules=(*input_rule, (r".*", None)),
        partition_name=partition,
        padding_error=problem,
        pad_safe=not problem,
        checks=False,
    )


def _scaled(model: Any, groups: list[str | None], factor: float) -> Any:
    """The model with `factor` on the sums over split features."""
    if factor == 1.0:
        return model
    return model.clone(sum_scales=tuple(factor if group else 1.0 for group in groups))
