"""Loss, metrics and batch for one kind of problem."""

from ist_jax.tasks.base import Task
from ist_jax.tasks.classification import classification
from ist_jax.tasks.node_classification import node_classification

__all__ = ["Task", "classification", "node_classification"]
