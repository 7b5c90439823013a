"""The description of a data set that models and tasks are built from."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Spec(NamedTuple):
    """What a model and a task need to know about a data set: plain values, kept in a run's record.

    Attributes:
      example_shape: of one input, without a batch axis.
      num_classes: C.
      num_train: number of training examples.
      mean, std: of all training inputs, for the task's normalisation.
      task: the kind of data, which decides loss and metrics.
    """

    example_shape: tuple[int, ...]
    num_classes: int
    num_train: int
    mean: float
    std: float
    task: str = "classification"

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Spec":
        """The spec whose `_asdict()`, as JSON, is `fields`.

        Raises:
          TypeError, ValueError, KeyError: `fields` are not those of a spec.
        """
        values: dict[str, Any] = dict(fields)
        spec = cls(**values)._replace(example_shape=tuple(fields["example_shape"]))
        counts = (*spec.example_shape, spec.num_classes, spec.num_train)
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"shapes and counts of data are integers above 0, not {counts}")
        if not (math.isfinite(spec.mean) and math.isfinite(spec.std) and spec.std > 0):
            raise ValueError(
                f"mean and std of data are finite, and std above 0, not {spec.mean} and {spec.std}"
            )
        return spec

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input as a model sees it, shape (1, ...)."""
        return jax.ShapeDtypeStruct((1, *self.example_shape), np.float32)
