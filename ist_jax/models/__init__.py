"""Flax modules; `linen` and `nnx` make models of them. A new module is a file and a line here.

Names that need Flax NNX are imported on first use (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ist_jax.models.gat import GAT
from ist_jax.models.gcn import GCN
from ist_jax.models.generate import generate
from ist_jax.models.graphs import GRAPH_NORMS
from ist_jax.models.linen import LinenModel, as_model, linen
from ist_jax.models.mlp import ACTIVATIONS, MLP, NORMS
from ist_jax.models.norm import STATS, BatchNorm
from ist_jax.models.resnet import PreActResNet, ResNet
from ist_jax.models.sage import GraphSAGE
from ist_jax.models.transformer import Transformer
from ist_jax.models.vgg import VGG

if TYPE_CHECKING:
    from ist_jax.models.nnx_models import NnxBatchNorm, NnxModel, nnx

_OF_NNX = ("NnxBatchNorm", "NnxModel", "nnx")
MODELS = {
    "mlp": MLP,
    "gcn": GCN,
    "sage": GraphSAGE,
    "gat": GAT,
    "preact_resnet": PreActResNet,
    "resnet": ResNet,
    "vgg": VGG,
    "transformer": Transformer,
}

__all__ = [
    "ACTIVATIONS",
    "GAT",
    "GCN",
    "GRAPH_NORMS",
    "MLP",
    "MODELS",
    "NORMS",
    "STATS",
    "VGG",
    "BatchNorm",
    "GraphSAGE",
    "LinenModel",
    "NnxBatchNorm",
    "NnxModel",
    "PreActResNet",
    "ResNet",
    "Transformer",
    "as_model",
    "generate",
    "linen",
    "nnx",
]


def __getattr__(name: str) -> Any:
    if name in _OF_NNX:
        return getattr(importlib.import_module("ist_jax.models.nnx_models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
