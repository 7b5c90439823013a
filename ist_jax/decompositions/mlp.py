"""Neuron-wise decomposition of fully connected networks (IST; Yuan et al., VLDB 2022, section 3).

The neurons of every hidden layer are split among the subnetworks. Input and output dimensions are
shared by default. A subnetwork holds 1/S of the first and last kernel, and 1/S^2 of every kernel in
between.
"""

import math

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.scaling import factor
from ist_jax.models.mlp import ACTIVATIONS, MLP


def rules(model: MLP, *, split_input: bool = False) -> Rules:
    """The rules of an MLP. The group of a split input is 'input'."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    has_vectors, depth = model.bias or model.norm != "none", len(model.hidden)
    for i in range(depth):
        before = f"hidden_{i - 1}" if i else ("input" if split_input else None)
        table.append((rf"hidden_{i}/kernel", (before, f"hidden_{i}")))
        table += [(rf"(hidden|norm)_{i}/(bias|scale)", (f"hidden_{i}",))] if has_vectors else []
    table.append((r"output/kernel", (f"hidden_{depth - 1}", None)))
    table += [(r"output/bias", None)] if model.bias else []
    is_affine = model.norm == "batch" and model.affine_output
    table += [(r"output_norm/(scale|bias)", None)] if is_affine else []
    return tuple(table)


def padding_problem(norm: str, activation: str) -> str:
    """Why a layer's units may not be padded with zeros; '' if they may."""
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
    """The decomposition of `model`.

    Args:
      model: the full network.
      example: one input, shape (1, ...); the model flattens it.
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      scaling: of sums over hidden units in the full model: 'none' (right with BatchNorm and
        LayerNorm), 'keep' (times 1/S) or 'sqrt' (times 1/sqrt(S)).
      split_input: whether input features are split, too. Inputs must then be vectors.

    Raises:
      ValueError: a layer is narrower than S, or S does not divide a layer whose units may not be
        padded (`padding_problem`).
    """
    sizes = {f"hidden_{i}": width for i, width in enumerate(model.hidden)}
    if split_input:
        sizes["input"] = math.prod(example.shape[1:])
    slots = [-(-width // num_subnets) for width in model.hidden]
    full = model.clone(sum_scale=factor(scaling, 1 / num_subnets))
    input_rule = ((r"x", (None, "input")),) if split_input else ()
    problem = padding_problem(model.norm, model.activation)
    return decompose(
        rules(model, split_input=split_input),
        sizes,
        num_subnets=num_subnets,
        full=full,
        subnet=model.clone(hidden=tuple(slots)),
        padded=full.clone(hidden=tuple(num_subnets * count for count in slots)),
        example=example,
        batch_rules=(*input_rule, (r".*", None)),
        partition_name=partition,
        padding_error=problem,
        pad_safe=not problem,
        checks=False,
    )
