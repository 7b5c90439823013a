"""One file per architecture."""

from ist_jax.decompositions.base import Decomposition, decompose, undivided
from ist_jax.decompositions.blocks import blocks
from ist_jax.decompositions.channels import channels
from ist_jax.decompositions.filters import filters
from ist_jax.decompositions.mlp import mlp

__all__ = ["Decomposition", "blocks", "channels", "decompose", "filters", "mlp", "undivided"]
