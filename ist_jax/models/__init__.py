"""Flax modules; a new one is its file and a line here."""

from ist_jax.models.mlp import ACTIVATIONS, MLP, NORMS
from ist_jax.models.norm import STATS, BatchNorm

MODELS = {"mlp": MLP}

__all__ = ["ACTIVATIONS", "MLP", "MODELS", "NORMS", "STATS", "BatchNorm"]
