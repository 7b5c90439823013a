"""Decompositions of models into subnetworks. Each architecture is one file."""

from ist_jax.core.decomposition import Decomposition, replicated
from ist_jax.decompositions.base import decompose
from ist_jax.decompositions.blocks import blocks
from ist_jax.decompositions.channels import channels
from ist_jax.decompositions.filters import filters
from ist_jax.decompositions.gat import gat
from ist_jax.decompositions.gcn import gcn
from ist_jax.decompositions.mlp import mlp
from ist_jax.decompositions.sage import sage
from ist_jax.decompositions.transformer import transformer

__all__ = [
    "Decomposition",
    "blocks",
    "channels",
    "decompose",
    "filters",
    "gat",
    "gcn",
    "mlp",
    "replicated",
    "sage",
    "transformer",
]
