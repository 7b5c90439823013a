"""Plausibility checks: refuse data that cannot be right, and warn of data that are odd.

A warning is one line: the rule, the value, the remedy. `Dataset.warnings` has all of them, and a
run prints and records them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ist_jax.data.raw import DataError, Raw
from ist_jax.data.rows import strided_indices
from ist_jax.tasks.augment import channels_first_problem, has_channels_first

if TYPE_CHECKING:
    from ist_jax.data.base import Dataset

LEAST_ROWS, _MOST_ROWS, _ENTRIES = 64, 4096, 1 << 20  # of a sample
_IMPOSSIBLE, _ODD = 10, 2  # ratios of two deviations that are refused, or warned of
_ALIKE = 1.5  # deviations on one scale differ by a smaller factor
_UNLIKE = 100  # ratio of features' deviations above which one common deviation is not enough
_NAMED = 5  # classes that a message lists
PER_FEATURE = "use data.standardise=per_feature"


class Summary(NamedTuple):
    """Statistics of a sample of inputs: plain values, which an exported model keeps.

    Attributes:
      dtype: the name of the inputs' type.
      low, high, mean, std: of all entries.
      size: the median magnitude of entries that are not 0; a few large entries hardly change it.
      has_fractions: whether some entry is not a whole number.
    """

    dtype: str
    low: float
    high: float
    mean: float
    std: float
    size: float
    has_fractions: bool

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Summary":
        """The summary whose `_asdict()` is `fields`. Raises TypeError or ValueError."""
        given = cls(**fields)
        low, high, mean, std, size = map(float, given[1:6])
        return cls(str(given.dtype), low, high, mean, std, size, bool(given.has_fractions))

    def __str__(self) -> str:
        bounds = f"from {self.low:.4g} to {self.high:.4g}"
        return f"{self.dtype} {bounds} (mean {self.mean:.4g}, deviation {self.std:.4g})"

    @property
    def is_scaled(self) -> bool:
        """Whether the inputs look scaled to [0, 1] or [-1, 1], or standardised."""
        is_within_1 = max(abs(self.low), abs(self.high)) <= 1.01
        is_standard = abs(self.mean) <= 0.5 and 0.5 <= self.std <= 2
        return self.has_fractions and (is_within_1 or is_standard)

    @property
    def is_unscaled(self) -> bool:
        """Whether the inputs are whole numbers, and not only zeros and ones."""
        return not self.has_fractions and (self.low < 0 or self.high > 1)


def sampled(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Evenly spaced rows of inputs: at most 4,096, fewer if rows are long, all if there are fewer.

    Args:
      x: [N, ...], an array, a `RowStore`, or a streamed column.
      shape: of one input.
    """
    rows = max(LEAST_ROWS, min(_MOST_ROWS, _ENTRIES // max(1, math.prod(shape))))
    return np.asarray(x[strided_indices(len(x), rows)])


def sampled_inputs(dataset: "Dataset", part: str) -> np.ndarray | None:
    """`sampled` inputs of 'train', 'validation' or 'test'; None for a graph."""
    arrays = getattr(dataset, part)
    return sampled(arrays["x"], dataset.spec.example_shape) if "x" in arrays else None


def summary(rows: np.ndarray) -> Summary:
    """The `Summary` of inputs."""
    values = rows.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    is_constant = low == high  # rounding would give them a deviation above 0
    magnitudes = np.abs(values[values != 0])
    return Summary(
        rows.dtype.name,
        low,
        high,
        low if is_constant else float(values.mean()),
        0.0 if is_constant else float(values.std()),
        float(np.median(magnitudes)) if magnitudes.size else 0.0,
        bool((values != np.rint(values)).any()),
    )


def _factor(one: float, other: float) -> float:
    """The factor by which two non-negative numbers differ."""
    low, high = sorted((one, other))
    return 1.0 if high == 0 else math.inf if low == 0 else high / low


def compare(
    train: Summary,
    test: Summary,
    name: str,
    source: str,
    *,
    what: str = "inputs",
    others: str = "test",
) -> list[str]:
    """[A warning] if training and test inputs hardly seem to belong together; otherwise [].

    Args:
      train, test: summaries of the inputs.
      name: of the data, for the warning.
      source: file or folder, for the error.
      what: the name of the compared values, for messages.
      others: which values are compared with those of training, for messages.

    Raises:
      DataError: they are on different scales.
    """
    both = f"train {what} are {train}, and {others} {what} {test}"
    spread = _factor(train.std, test.std)
    pairs = (train, test), (test, train)
    is_half_scaled = any(one.is_unscaled and other.is_scaled for one, other in pairs)
    # a few large entries change only the deviation, which is odd but possible
    both_differ = _IMPOSSIBLE < spread < math.inf and _factor(train.size, test.size) > _IMPOSSIBLE
    if (is_half_scaled and spread > _ALIKE) or both_differ:
        raise DataError(
            f"{source}: {both}: they are on different scales: prepare both in the same way"
        )
    if spread > _ODD or abs(train.mean - test.mean) > train.std:
        return [
            f"{name}: {both}: results on them say little unless both were prepared in the same way"
        ]
    return []


def listed(values: Sequence[Any], what: str) -> str:
    """'class 3', or 'classes 3, 4, 5, 6, 7 and 2 more' for `what` 'class'."""
    shown = ", ".join(map(str, values[:_NAMED]))
    if len(values) == 1:
        return f"{what} {shown}"
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return f"{what}{'es' if what.endswith('s') else 's'} {shown}{more}"


def untrained_classes(
    train_N: np.ndarray, others: Mapping[str, np.ndarray], name: str
) -> list[str]:
    """Warnings about classes that a model is evaluated on but never trained on.

    Args:
      train_N: the labels of training examples.
      others: split -> labels of its examples.
      name: of the data.
    """
    warnings = []
    for part, y_N in others.items():
        missing, count = np.unique(y_N[~np.isin(y_N, train_N)], return_counts=True)
        if len(missing):
            warnings.append(
                f"{name}: no training example is of {listed(missing.tolist(), 'class')}, and "
                f"{count.sum()} of {len(y_N)} {part} examples are: a model cannot know them: "
                "train on some of them, or leave them out"
            )
    return warnings


def unused_labels(labels: Sequence[np.ndarray], name: str) -> list[str]:
    """[A warning] if labels do not count from 0 without gaps; otherwise []."""
    used = np.unique(np.concatenate([np.unique(y_N) for y_N in labels]))
    num_classes = int(used.max()) + 1
    missing = np.setdiff1d(np.arange(num_classes), used)
    if not len(missing):
        return []
    return [
        f"{name}: no example has {listed(missing.tolist(), 'label')}, and the model has an "
        f"output for each of {num_classes}: number the classes from 0, "
        "np.unique(y, return_inverse=True)[1]"
    ]


def unlike_scales(rows: np.ndarray, name: str, remedy: str) -> list[str]:
    """[A warning] if inputs are vectors whose features are on different scales; otherwise [].

    The largest deviation is compared with the median one, and with the smallest one of features
    that vary. A feature that mostly has one value, such as a pixel at the border, is not among
    these: its deviation may be very small.
    """
    if rows.ndim != 2:
        return []
    values = rows.astype(np.float64)
    is_changing = values.max(axis=0) > values.min(axis=0)
    if not is_changing.any():
        return []
    std = np.where(is_changing, values.std(axis=0), 0)
    is_varying = is_changing & ((values == np.median(values, axis=0)).mean(axis=0) <= 0.5)
    order = np.argsort(std)[np.count_nonzero(~is_changing) :]
    small = [order[(len(order) - 1) // 2], *[i for i in order if is_varying[i]][:1]]
    least, most = min(small, key=lambda i: std[i]), order[-1]
    if std[most] <= _UNLIKE * std[least]:
        return []
    return [
        f"{name}: features are on unlike scales: feature {most} deviates by {std[most]:.3g} and "
        f"feature {least} by {std[least]:.3g}, so that small ones are lost: {remedy}"
    ]


def channels_first(shape: tuple[int, ...], name: str) -> list[str]:
    """[A warning] if images seem to have their channels first; otherwise []."""
    return [f"{name}: {channels_first_problem(shape)}"] if has_channels_first(shape) else []


def input_warnings(raw: Raw, name: str, source: str, standardise: str) -> list[str]:
    """Warnings about the inputs of independent examples, one line each.

    Args:
      raw: arrays that `raw.check` accepts.
      name: of the data, for warnings. It is not a path, since records would then show folders.
      source: file or folder, for errors.
      standardise: how inputs are normalised; 'whole' needs features on one scale.

    Raises:
      DataError: training and test inputs are on different scales.
    """
    shape = raw.x_train.shape[1:]
    rows, test_rows = sampled(raw.x_train, shape), sampled(raw.x_test, shape)
    unlike = unlike_scales(rows, name, PER_FEATURE) if standardise == "whole" else []
    compared = compare(summary(rows), summary(test_rows), name, source)
    return [*compared, *channels_first(shape, name), *unlike]
