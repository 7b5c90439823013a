"""Loss, metrics and batch for one kind of problem."""

from ist_jax.tasks.augment import AUGMENTS
from ist_jax.tasks.base import Task
from ist_jax.tasks.classification import classification
from ist_jax.tasks.node_classification import node_classification

__all__ = ["AUGMENTS", "Task", "classification", "node_classification"]
