"""Flax modules; a new one is its file and a line here."""

from ist_jax.models.mlp import ACTIVATIONS, MLP, NORMS
from ist_jax.models.norm import STATS, BatchNorm
from ist_jax.models.resnet import PreActResNet, ResNet
from ist_jax.models.vgg import VGG

MODELS = {"mlp": MLP, "preact_resnet": PreActResNet, "resnet": ResNet, "vgg": VGG}

__all__ = ["ACTIVATIONS", "MLP", "MODELS", "NORMS", "STATS", "VGG", "BatchNorm", "PreActResNet", "ResNet"]
