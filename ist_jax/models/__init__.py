"""Flax modules."""

from ist_jax.models.mlp import ACTIVATIONS, MLP, NORMS
from ist_jax.models.norm import STATS, BatchNorm

__all__ = ["ACTIVATIONS", "MLP", "NORMS", "STATS", "BatchNorm"]
