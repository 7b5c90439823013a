"""Loss, metrics and batch for one kind of problem."""

from ist_jax.tasks.base import Task
from ist_jax.tasks.classification import classification

__all__ = ["Task", "classification"]
