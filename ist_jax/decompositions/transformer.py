"""Decompositions of Transformers: neurons, heads, whole layers or experts are split.

    neurons  The neurons of every MLP. A subnetwork has all of the attention.
    heads    The heads of keys and values, each with the query heads that read it, and its share of
             the output kernel.
    layers   Whole blocks. A layer that a subnetwork does not hold is the identity there.
    experts  The experts of every layer, with their columns of the router.

The embedding, the norms outside of split layers and the output are shared. Every layer has its own
groups; if layers run in a loop (`Transformer.scan`), unit j of all layers is one unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.scaling import factor
from ist_jax.models.transformer import Transformer

SPLIT = ("neurons", "heads", "layers", "experts")
# kind -> (pattern of a leaf inside a layer, group of every axis; "*" stands for the kind's group)
_LEAVES: Mapping[str, Sequence[tuple[str, tuple[str | None, ...]]]] = {
    "neurons": (
        ("mlp/(gate|up)/kernel", (None, "*")),
        ("mlp/down/kernel", ("*", None)),
    ),
    "heads": (
        ("attention/query/kernel", (None, "*", None, None)),
        ("attention/(key|value)/kernel", (None, "*", None)),
        ("attention/output/kernel", ("*", None, None, None)),
    ),
    "experts": (
        ("mlp/experts/.*", ("*", None, None)),
        ("mlp/router", (None, "*")),
    ),
}
# number of axes of the leaves of a layer, which has an axis of layers in front
_RANKS = (
    ("attention/(query|output)/kernel", 4),
    ("attention/(key|value)/kernel", 3),
    ("(attention|mlp)_norm/scale", 1),
    ("mlp/experts/.*", 3),
    ("mlp/.*", 2),
)


def rules(model: Transformer, split: Sequence[str]) -> Rules:
    """The rules of a Transformer that is split by the kinds of parts in `split`."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    if "layers" in split:
        ranks = [row for row in _RANKS if model.experts or "experts" not in row[0]]
        table += [(f"layers/{leaf}", ("layers", *(None,) * rank)) for leaf, rank in ranks]
    for place, suffix in _places(model):
        front = (None,) if model.scan else ()
        for kind in split:
            for leaf, axes in _LEAVES.get(kind, ()):
                named = (kind + suffix if axis == "*" else None for axis in axes)
                table.append((f"{place}/{leaf}", (*front, *named)))
    return (*table, (".*", None))


def _places(model: Transformer) -> list[tuple[str, str]]:
    """(name of a layer's parameters, suffix of its groups) of every layer; one entry for a loop."""
    if model.scan:
        return [("layers", "")]
    return [(f"layer_{i}", f"_{i}") for i in range(model.layers)]


def units(model: Transformer) -> dict[str, int]:
    """Kind of part -> how many a layer has (for "layers": how many the model has)."""
    return {
        "neurons": model.mlp_width or 4 * model.width,
        "heads": model.kv_heads or model.heads,
        "layers": model.layers,
        "experts": model.experts,
    }


def resized(model: Transformer, count: Mapping[str, int]) -> Transformer:
    """The model with `count[kind]` parts of every kind; other dimensions stay."""
    now = units(model)
    fields: dict[str, Any] = {"head_dim": model.head_dim or model.width // model.heads}
    fields["mlp_width"] = count.get("neurons", now["neurons"])
    fields["kv_heads"] = count.get("heads", now["heads"])
    fields["heads"] = model.heads // now["heads"] * fields["kv_heads"]
    fields["layers"] = count.get("layers", model.layers)
    fields["experts"] = count.get("experts", model.experts)
    return model.clone(**fields)


def transformer(
    model: Transformer,
    example: jax.Array | jax.ShapeDtypeStruct,
    *,
    num_subnets: int,
    partition: str = "balanced",
    split: Sequence[str] = ("neurons",),
    scaling: str = "keep",
) -> Decomposition:
    """The decomposition of `model`.

    Args:
      model: the full network.
      example: the tokens of one window, int32[1, L].
      num_subnets: S.
      partition: see `ist_jax.core.partition`.
      split: names of `SPLIT`. Neurons and heads may be combined, but layers or experts may not.
      scaling: of branches that sum over split parts, in the full model, which sums over S times as
        many as a subnetwork: 'keep' (times 1/S), 'sqrt' (times 1/sqrt(S)) or 'none'. The weights
        of experts always sum to 1.

    Raises:
      ValueError: the parts cannot be split together, the model lacks them or has fewer than S, its
        layers are not in a loop, or S does not divide the experts.
    """
    _check(model, split, num_subnets)
    count = {kind: number for kind, number in units(model).items() if kind in split}
    slots = {kind: -(-number // num_subnets) for kind, number in count.items()}
    places = [("", "")] if "layers" in split else _places(model)
    full = _scaled(model, split, factor(scaling, 1 / num_subnets))
    return decompose(
        rules(model, split),
        {kind + suffix: number for kind, number in count.items() for _, suffix in places},
        num_subnets=num_subnets,
        full=full,
        subnet=resized(model, slots),
        padded=resized(full, {kind: num_subnets * number for kind, number in slots.items()}),
        example=example,
        partition_name=partition,
        padding_error="an expert without parameters would still receive tokens",
        pad_safe="experts" not in split,
        ordered="layers" in split,
        checks=False,
    )


def _scaled(model: Transformer, split: Sequence[str], factor: float) -> Transformer:
    """The model with `factor` on the branches that sum over split parts."""
    attention, mlp = {"heads", "layers"} & set(split), {"neurons", "layers"} & set(split)
    return model.clone(
        attention_scale=factor if attention else 1.0, mlp_scale=factor if mlp else 1.0
    )


def _check(model: Transformer, split: Sequence[str], num_subnets: int) -> None:
    alone = {"layers", "experts"} & set(split)
    if not set(split) <= set(SPLIT) or not split or (alone and len(split) > 1):
        raise ValueError(
            f"a Transformer is split by neurons, heads, both, layers or experts, not by {split}"
        )
    if "layers" in split and not model.scan:
        raise ValueError("layers are split along the axis of a loop: use scan=True")
    if "neurons" in split and model.experts:
        raise ValueError(
            f"the MLPs of a model with experts={model.experts} are its experts: split 'experts' "
            "instead of 'neurons'"
        )
    if "experts" in split and model.experts < num_subnets * model.experts_per_token:
        raise ValueError(
            f"experts_per_token={model.experts_per_token} experts of a subnetwork receive each "
            f"token, so experts={model.experts} must be at least {num_subnets} times as many"
        )
