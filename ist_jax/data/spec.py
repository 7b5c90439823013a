"""The description of a data set that models and tasks are built from."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

# a mean or deviation: one number for all entries, or nested tuples of the shape of one input
Moment = float | tuple[Any, ...]
_MOMENTS = ("mean", "std", "target_mean", "target_std")
DTYPES = ("float32", "int32")  # of inputs as a model sees them


def as_moment(value: Any) -> Moment:
    """`value` as a `Moment`: a number as a float, nested lists of numbers as nested tuples.

    Raises:
      TypeError: `value` is neither.
    """
    if isinstance(value, list | tuple):
        return tuple(map(as_moment, value))
    if type(value) not in (int, float):
        raise TypeError(f"mean and std of data are numbers, or lists of them, not {value!r}")
    return float(value)


def _check_moments(mean: Moment, std: Moment, shape: tuple[int, ...], what: str) -> None:
    mean_F, std_F = np.asarray(mean), np.asarray(std)
    if mean_F.shape != std_F.shape or mean_F.shape not in ((), shape):
        raise ValueError(
            f"mean and std of data are numbers or have the shape {shape} of {what}, "
            f"not {mean_F.shape} and {std_F.shape}"
        )
    if not (np.isfinite(mean_F).all() and np.isfinite(std_F).all() and (std_F > 0).all()):
        raise ValueError(
            "mean and std of data are finite, and std above 0, not "
            f"{mean_F.min()} to {mean_F.max()} and {std_F.min()} to {std_F.max()}"
        )


class Spec(NamedTuple):
    """What a model and a task need to know about a data set: plain values, kept in a run's record.

    Attributes:
      example_shape: of one input, without a batch axis.
      num_classes: the number of a model's outputs: classes (C), labels or targets.
      num_train: number of training examples.
      mean, std: of all training inputs, for the task's normalisation: numbers, or nested tuples of
        the shape of one input with a number for every entry.
      task: the kind of data, which decides loss and metrics.
      dtype: of inputs as a model sees them: 'float32', or 'int32' for tokens and categories.
      target_mean, target_std: of training targets, numbers or a tuple with a number for every
        target: a model of regression learns (target - mean) / std.
      vocabulary: the characters that tokens stand for, in order; '' if they are not characters.
      bytes_per_token: bytes of text per token; 0 if unknown, or if the data are not text.
    """

    example_shape: tuple[int, ...]
    num_classes: int
    num_train: int
    mean: Moment
    std: Moment
    task: str = "classification"
    dtype: str = "float32"
    target_mean: Moment = 0.0
    target_std: Moment = 1.0
    vocabulary: str = ""
    bytes_per_token: float = 0.0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Spec":
        """The spec whose `_asdict()`, as JSON, is `fields`.

        Raises:
          TypeError, ValueError, KeyError: `fields` are not those of a spec.
        """
        values: dict[str, Any] = dict(fields)
        values |= {name: as_moment(fields[name]) for name in _MOMENTS if name in fields}
        spec = cls(**values)._replace(example_shape=tuple(fields["example_shape"]))
        counts = (*spec.example_shape, spec.num_classes, spec.num_train)
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"shapes and counts of data are integers above 0, not {counts}")
        if spec.dtype not in DTYPES:
            raise ValueError(f"inputs of a model are {' or '.join(DTYPES)}, not {spec.dtype!r}")
        if len(spec.vocabulary) not in (0, spec.num_classes):
            raise ValueError(
                f"a vocabulary has num_classes={spec.num_classes} characters, not "
                f"{len(spec.vocabulary)}"
            )
        if not 0 <= spec.bytes_per_token < math.inf:
            raise ValueError(f"bytes_per_token is 0 or more, not {spec.bytes_per_token}")
        _check_moments(spec.mean, spec.std, spec.example_shape, "an input")
        _check_moments(spec.target_mean, spec.target_std, (spec.num_classes,), "the targets")
        return spec

    def reshaped(self, example_shape: tuple[int, ...]) -> "Spec":
        """This spec for inputs of another shape with as many entries."""

        def shaped(value: Moment) -> Moment:
            return as_moment(np.reshape(value, example_shape).tolist()) if np.ndim(value) else value

        return self._replace(
            example_shape=example_shape, mean=shaped(self.mean), std=shaped(self.std)
        )

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input as a model sees it, shape (1, ...)."""
        return jax.ShapeDtypeStruct((1, *self.example_shape), np.dtype(self.dtype))
