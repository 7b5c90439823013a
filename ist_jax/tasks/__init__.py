"""Tasks: kinds of problems. Each is one file."""

from ist_jax.core.task import SHARE, MetricInfo, Selection, Task
from ist_jax.tasks.augment import AUGMENTS
from ist_jax.tasks.classification import classification
from ist_jax.tasks.multi_label import multi_label
from ist_jax.tasks.next_token import next_token
from ist_jax.tasks.node_classification import node_classification
from ist_jax.tasks.regression import regression

__all__ = [
    "AUGMENTS",
    "SHARE",
    "MetricInfo",
    "Selection",
    "Task",
    "classification",
    "multi_label",
    "next_token",
    "node_classification",
    "regression",
]
