"""One file per architecture."""

from ist_jax.decompositions.base import Decomposition, decompose, undivided
from ist_jax.decompositions.gat import gat
from ist_jax.decompositions.gcn import gcn
from ist_jax.decompositions.mlp import mlp
from ist_jax.decompositions.sage import sage

__all__ = ["Decomposition", "decompose", "gat", "gcn", "mlp", "sage", "undivided"]
