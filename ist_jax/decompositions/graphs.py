"""What the decompositions of graph networks share (GIST; Wolfe et al., 2023, section 2, Algorithm 1).

The features of every hidden layer are dealt to the sub-GCNs: one of S holds 1/S^2 of a hidden-to-hidden matrix. Input features
and logits are whole by default; the paper's Table 1 measures what else can be dealt, and what not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Graph, Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.mlp import sum_scale
from ist_jax.models.mlp import ACTIVATIONS


def example_graph(*feature_axes: int) -> Graph:
    """The shapes of a graph of one node, on which parameters are initialised."""
    of = jax.ShapeDtypeStruct
    numbers = of((1, *feature_axes), jnp.float32), of((1,), jnp.float32), of((1,), jnp.float32)
    return Graph(*numbers, of((1, 1), jnp.int32), of((0, 1), jnp.int32), of((0,), jnp.int32))


def why_not_padded(norm: str, activation: str) -> str:
    """Why a layer's features may not be padded with zero ones, '' if they may."""
    if norm != "none":
        return "normalisation runs over the features, and padded ones would count"
    if float(ACTIVATIONS[activation](0.0)) != 0.0:
        return f"activation {activation!r} is not 0 at 0, so padded features would not stay zero"
    return ""


def groups(hidden: tuple[int, ...], split_input: bool, split_output: bool) -> list[str | None]:
    """The group of every layer's input features, the first layer's first: d0, d1, ... of the paper's Table 1."""
    named: list[str | None] = [
        "input" if split_input else None,
        *(f"hidden_{i}" for i in range(len(hidden))),
    ]
    return named if split_output else [*named[:-1], None]


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
    """The decomposition of a graph network, whose hidden widths are those of the full network.

    Args:
      model: the full network.
      num_features: D.
      rules: groups of d0, d1, ... -> rules table.
      feature_axes: of `Graph.features` after the node axis, the input features last.
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      split_input: whether input features are dealt as well (hurts, see Table 1).
      split_output: whether the last hidden layer, which the output layer reads, is dealt (the authors' name for it).
      scaling: of sums over dealt features in the full model, as of `mlp`; not of GAT, whose attention has sums of its own.

    Raises:
      ValueError: nothing is dealt, a layer is narrower than S, or S does not divide one that may not be padded.
    """
    named = groups(model.hidden, split_input, split_output)
    sizes = {
        group: size
        for group, size in zip(named, (num_features, *model.hidden))
        if group is not None
    }
    if not sizes:
        raise ValueError(
            "a decomposition deals the features of at least one layer: use split_input or split_output"
        )
    uneven_hidden = any(size % num_subnets for group, size in sizes.items() if group != "input")
    why_not = (
        why_not_padded(model.norm, model.activation) if uneven_hidden else ""
    )  # an input that is 0 stays without effect
    slots = tuple(
        -(-width // num_subnets) if group else width
        for group, width in zip(named[1:], model.hidden)
    )
    whole = tuple(num_subnets * slot if group else slot for group, slot in zip(named[1:], slots))
    factor = sum_scale(scaling, num_subnets)
    full = (
        model
        if factor == 1.0
        else model.clone(sum_scales=tuple(factor if group else 1.0 for group in named))
    )
    axes = (None,) * len(feature_axes) + ("input",)
    return decompose(
        [rule for rule in rules(named) if model.bias or not rule[0].endswith("/bias")],
        sizes,
        num_subnets=num_subnets,
        full=full,
        subnet=model.clone(hidden=slots),
        padded=full.clone(hidden=whole),
        example=example_graph(*feature_axes),
        batch_rules=((r"x/features", axes), (r".*", None)) if split_input else ((r".*", None),),
        partition_name=partition,
        padding=why_not,
        pad_safe=not why_not,
    )
