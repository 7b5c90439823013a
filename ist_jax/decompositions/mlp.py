"""Neuron-wise decomposition of fully connected networks (IST; Yuan et al., VLDB 2022, section 3).

The neurons of every hidden layer are dealt to the subnetworks; input and output dimensions are whole by
default. A subnetwork holds 1/S of the first and last kernel and 1/S^2 of every kernel between.
"""

import math

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.models.mlp import ACTIVATIONS, MLP

SCALINGS = ("none", "keep", "sqrt")


def rules(model: MLP, *, split_input: bool = False) -> Rules:
    """The rules of `model`, of the parameters that it has; 'input' is the group of a split input."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    has_vectors, depth = model.bias or model.norm != "none", len(model.hidden)
    for i in range(depth):
        before = f"hidden_{i - 1}" if i else ("input" if split_input else None)
        table.append((rf"hidden_{i}/kernel", (before, f"hidden_{i}")))
        table += [(rf"(hidden|norm)_{i}/(bias|scale)", (f"hidden_{i}",))] if has_vectors else []
    shared = ((r"output/bias", None),) if model.bias else ()
    return (*table, (r"output/kernel", (f"hidden_{depth - 1}", None)), *shared)


def sum_scale(scaling: str, num_subnets: int) -> float:
    """Factor on sums over hidden units in the full model, which sums S times as many as a subnetwork."""
    return {"none": 1.0, "keep": 1 / num_subnets, "sqrt": 1 / math.sqrt(num_subnets)}[scaling]


def why_not_padded(norm: str, activation: str) -> str:
    """Why a layer's units may not be padded with zero ones, '' if they may."""
    if norm == "layer":
        return "LayerNorm runs over the units, and padded ones would count"
    if float(ACTIVATIONS[activation](0.0)) != 0.0:
        return f"activation {activation!r} is not 0 at 0, so padded units would not stay zero"
    return ""


def mlp(
    model: MLP,
    example: jax.Array | jax.ShapeDtypeStruct,
    *,
    num_subnets: int,
    partition: str = "balanced",
    scaling: str = "none",
    split_input: bool = False,
) -> Decomposition:
    """The decomposition of `model`, whose hidden widths are those of the full network.

    Args:
      model: the full network.
      example: one input, shape (1, ...); flattened by the model.
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      scaling: 'none' (right under BatchNorm and LayerNorm), 'keep' (1/S) or 'sqrt' (1/sqrt(S)) on sums over
        hidden units in the full model.
      split_input: whether input features are dealt to the subnetworks as well; inputs are vectors then.

    Raises:
      ValueError: a layer narrower than S; one that S does not divide under LayerNorm or an activation that is
        not zero at zero.
    """
    sizes = {f"hidden_{i}": width for i, width in enumerate(model.hidden)}
    if split_input:
        sizes["input"] = math.prod(example.shape[1:])
    why_not = why_not_padded(model.norm, model.activation)
    full, slots = (
        model.clone(sum_scale=sum_scale(scaling, num_subnets)),
        [-(-width // num_subnets) for width in model.hidden],
    )
    return decompose(
        rules(model, split_input=split_input),
        sizes,
        num_subnets=num_subnets,
        full=full,
        subnet=model.clone(hidden=tuple(slots)),
        padded=full.clone(hidden=tuple(num_subnets * count for count in slots)),
        example=example,
        batch_rules=((r"x", (None, "input")), (r".*", None)) if split_input else ((r".*", None),),
        partition_name=partition,
        padding=why_not,
        pad_safe=not why_not,
    )
