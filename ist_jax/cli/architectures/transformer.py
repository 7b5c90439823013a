"""Transformers, split by neurons, heads, both, layers or experts."""

import functools
from collections.abc import Sequence
from typing import Any

from ist_jax.cli.architectures.base import DTYPES, Architecture
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import splits
from ist_jax.data import Spec
from ist_jax.decompositions import Decomposition, transformer
from ist_jax.decompositions.scaling import SCALINGS
from ist_jax.decompositions.transformer import units
from ist_jax.models import Transformer
from ist_jax.models.feedforward import MLP_ACTIVATIONS
from ist_jax.models.transformer import POSITIONS, REMATS, SEQUENCE_NORMS


def _model(config: Config, vocabulary: int, context: int) -> Transformer:
    m = config.model
    return Transformer(
        vocabulary,
        context,
        layers=m.layers,
        width=m.width,
        heads=m.heads,
        kv_heads=m.kv_heads,
        mlp_width=m.mlp_width,
        activation=m.activation,
        norm=m.norm,
        positions=m.positions,
        tied=m.tied,
        dropout=m.dropout,
        experts=m.experts,
        experts_per_token=m.experts_per_token,
        balance=m.balance,
        scan=m.scan,
        remat=m.remat,
        dtype=DTYPES[m.dtype],
    )


def _check_sizes(config: Config) -> None:
    m = config.model
    kv_heads = m.kv_heads or m.heads
    if m.width % m.heads or m.heads % kv_heads:
        raise ConfigError(
            f"model.heads={m.heads} must divide model.width={m.width}, and "
            f"model.kv_heads={kv_heads} must divide model.heads"
        )
    if m.positions == "rotary" and m.width // m.heads % 2:
        raise ConfigError(
            "model.positions=rotary rotates pairs of features, but a head has "
            f"model.width / model.heads = {m.width // m.heads}: use an even number, or learned"
        )
    if m.experts and m.experts < m.experts_per_token:
        raise ConfigError(
            f"model.experts_per_token={m.experts_per_token} must be at most "
            f"model.experts={m.experts}"
        )


def _check(split: Sequence[str], config: Config) -> None:
    _check_sizes(config)
    if not splits(config):
        return
    most = min(units(_model(config, 1, 1))[kind] for kind in split)
    if most < config.num_subnets:
        raise ConfigError(
            f"each of num_subnets={config.num_subnets} subnetworks needs a unit of every group, "
            f"but a group has {most} {' or '.join(split)}: use at most {most} subnetworks or a "
            "larger model"
        )


def _decompose(split: Sequence[str], config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    return transformer(
        _model(config, spec.num_classes, *spec.example_shape),
        spec.example,
        num_subnets=num_subnets,
        partition=config.partition,
        split=split,
        scaling=config.model.scaling if splits(config) else "none",
    )


CHOICES = {
    "model.norm": SEQUENCE_NORMS,
    "model.scaling": SCALINGS,
    "model.activation": tuple(MLP_ACTIVATIONS),
    "model.positions": POSITIONS,
    "model.remat": REMATS,
    "model.dtype": tuple(DTYPES),
}


UNSCALED = CHOICES | {"model.scaling": ("none",)}  # the weights of a token's experts sum to 1


def _architecture(*split: str, choices: Any = CHOICES, scaling: str = "keep") -> Architecture:
    return Architecture(
        "transformer",
        ("next_token",),
        choices,
        functools.partial(_check, split),
        functools.partial(_decompose, split),
        scaling=scaling,
    )


NEURONS_OF = _architecture("neurons")
HEADS_OF = _architecture("heads")
NEURONS_AND_HEADS_OF = _architecture("neurons", "heads")
LAYERS_OF = _architecture("layers")
EXPERTS_OF = _architecture("experts", choices=UNSCALED, scaling="none")
