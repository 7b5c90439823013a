"""One file per architecture."""

from ist_jax.decompositions.base import Decomposition, decompose, undivided
from ist_jax.decompositions.mlp import mlp

__all__ = ["Decomposition", "decompose", "mlp", "undivided"]
