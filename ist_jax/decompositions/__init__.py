"""One file per architecture; a new one is that file and a line here."""

from ist_jax.decompositions.base import Decomposition, decompose, undivided
from ist_jax.decompositions.mlp import mlp

DECOMPOSITIONS = {"mlp": mlp}

__all__ = ["DECOMPOSITIONS", "Decomposition", "decompose", "mlp", "undivided"]
