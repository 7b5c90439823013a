"""Flax modules, and `linen`, which makes a model of one. A new module is a file and a line here."""

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
    "PreActResNet",
    "ResNet",
    "Transformer",
    "as_model",
    "generate",
    "linen",
]
