"""Kinds of targets: a class, numbers, or any number of labels for each example.

A new kind is a line in `KINDS`. Its name is the value of `Spec.task`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ist_jax.data import plausible
from ist_jax.data.raw import NUMBERED, DataError, Raw, label_remedy
from ist_jax.data.spec import Moment, as_moment

_MAX_CLASSES = 100  # whole numbers with more distinct values are not suspected to be classes
_SEVERAL = "train on one of them, y[:, k], or on all as numbers, data.task=regression"
_NUMBERS = "make classes of them, np.digitize(y, edges), or learn numbers, data.task=regression"


class Kind(NamedTuple):
    """A kind of targets.

    Attributes:
      name: in `Spec.task`.
      check: (raw, source) -> None. Raises DataError if the targets are not of this kind.
      warnings: (raw, bool[N] of examples that are held out, name of the data, source) -> lines.
      dtype: in which targets are stored.
      num_outputs: training targets -> how many outputs a model needs.
      has_classes: whether every example has one class.
      is_scaled: whether a model learns targets that are standardised.
    """

    name: str
    check: Callable[[Raw, str], None]
    warnings: Callable[[Raw, np.ndarray, str, str], list[str]]
    dtype: type
    num_outputs: Callable[[np.ndarray], int]
    has_classes: bool = False
    is_scaled: bool = False

    def classes(self, y: np.ndarray) -> np.ndarray:
        """int[N], the class of every example; 0 for targets that are not classes."""
        return y if self.has_classes else np.zeros(len(y), np.int32)

    def moments(self, y: np.ndarray) -> tuple[Moment, Moment]:
        """The mean and deviation of each target; 0 and 1 for targets that are not scaled."""
        if not self.is_scaled:
            return 0.0, 1.0
        mean, std = y.mean(axis=0, dtype=np.float64), y.std(axis=0, dtype=np.float64)
        is_constant = y.min(axis=0) == y.max(axis=0)  # rounding would give it a deviation above 0
        return as_moment(mean.tolist()), as_moment(np.where(is_constant, 1.0, std).tolist())


def kind_of(raw: Raw, task: str, source: str) -> Kind:
    """The kind of the targets.

    Args:
      raw: what a source read.
      task: a name of `KINDS`, or 'auto': integers [N] are classes, a table of 0 and 1 is labels,
        and other numbers are targets of regression.
      source: file or folder, for the error.

    Raises:
      DataError: every row of a table has exactly one 1, so it may also stand for classes.
      ValueError: `task` has another value.
    """
    if task in KINDS:
        return KINDS[task]
    if task != "auto":
        raise ValueError(f"data.task is auto or one of {', '.join(KINDS)}, not {task!r}")
    y, parts = raw.y_train, (raw.y_train, raw.y_test)
    if all(y.ndim == 2 and y.shape[1] > 1 and _is_binary(y) for y in parts):
        if all((y.sum(axis=1) == 1).all() for y in parts):
            raise DataError(
                f"{source}: a table with exactly one 1 per row may mean classes or labels: use "
                "y.argmax(axis=1) for classes, or data.task=multi_label for labels"
            )
        return MULTI_LABEL
    return REGRESSION if np.issubdtype(y.dtype, np.floating) else CLASSIFICATION


def _parts(raw: Raw) -> dict[str, np.ndarray]:
    return {"train": raw.y_train, "test": raw.y_test}


def _is_binary(y: np.ndarray) -> bool:
    is_number = np.issubdtype(y.dtype, np.number) or y.dtype == bool
    return bool(is_number and ((y == 0) | (y == 1)).all())


def _check_classes(raw: Raw, source: str) -> None:
    for part, y in _parts(raw).items():
        remedy = label_remedy(y, several=_SEVERAL, numbers=_NUMBERS)
        if y.ndim != 1:
            raise DataError(
                f"{source}: one label per example; {part} labels have shape {y.shape}: {remedy}"
            )
        if not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"{source}: classes are integers; {part} labels have dtype {y.dtype}: {remedy}"
            )
        if y.min() < 0:
            raise DataError(
                f"{source}: labels count from 0; the smallest {part} label is {y.min()}: {NUMBERED}"
            )
    largest = raw.y_train.max()
    if largest >= len(raw.y_train):
        raise DataError(
            f"{source}: labels count from 0 without large gaps; "
            f"{len(raw.y_train)} training examples have a label {largest}: {NUMBERED}"
        )
    if raw.y_test.max() > largest:
        raise DataError(
            f"{source}: test label {raw.y_test.max()} never occurs in training, "
            f"whose largest is {largest}: train on some examples of it, or leave them out"
        )


def _check_tables(raw: Raw, source: str, what: str) -> None:
    """Raises DataError if the targets of training and test examples differ in shape."""
    shapes = [y.shape[1:] for y in _parts(raw).values()]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{source}: {what} of training and test examples must have the same shape, not "
            f"{shapes[0]} and {shapes[1]}: prepare both in the same way"
        )


def _check_numbers(raw: Raw, source: str) -> None:
    limit = np.finfo(np.float32).max
    for part, y in _parts(raw).items():
        if y.ndim > 2 or 0 in y.shape:
            raise DataError(
                f"{source}: regression has targets [N] or [N, K]; {part} targets have shape "
                f"{y.shape}: use y.reshape(len(y), -1)"
            )
        if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
            raise DataError(
                f"{source}: targets of regression are numbers; {part} targets have dtype {y.dtype}"
                ": if they stand for numbers, use y.astype(np.float32)"
            )
        if not (np.abs(y) <= limit).all():
            raise DataError(
                f"{source}: targets are finite in float32; some {part} targets are nan, infinite "
                "or larger: leave these examples out"
            )
    _check_tables(raw, source, "targets")


def _check_labels(raw: Raw, source: str) -> None:
    for part, y in _parts(raw).items():
        if y.ndim != 2 or not y.shape[1] or not _is_binary(y):
            raise DataError(
                f"{source}: several labels per example are a table [N, labels] of 0 and 1; {part} "
                f"labels have shape {y.shape} and dtype {y.dtype}: make one, or choose another "
                "data.task"
            )
    _check_tables(raw, source, "labels")


def _class_warnings(raw: Raw, held_out_N: np.ndarray, name: str, source: str) -> list[str]:
    del source
    others = {"validation": raw.y_train[held_out_N], "test": raw.y_test}
    return [
        *plausible.untrained_classes(raw.y_train[~held_out_N], others, name),
        *plausible.unused_labels((raw.y_train, raw.y_test), name),
    ]


def _number_warnings(raw: Raw, held_out_N: np.ndarray, name: str, source: str) -> list[str]:
    """Warnings about targets that do not vary. Raises DataError if test targets differ in scale."""
    y = raw.y_train[~held_out_N]
    constant = np.flatnonzero(np.atleast_1d(y.min(axis=0) == y.max(axis=0))).tolist()
    compared = plausible.compare(
        plausible.summary(raw.y_train), plausible.summary(raw.y_test), name, source, what="targets"
    )
    if not constant:
        return compared
    shown = plausible.listed(constant, "target")
    return [*compared, f"{name}: {shown} never varies in training: leave it out"]


def _whole_number_warnings(y: np.ndarray, name: str) -> list[str]:
    """[A warning] if numbers may be classes that are stored as floats; otherwise []."""
    is_whole = y.ndim == 1 and y.min() >= 0 and (y == np.rint(y)).all()
    if not is_whole or len(np.unique(y)) > _MAX_CLASSES:
        return []
    return [
        f"{name}: targets are whole numbers from {y.min():g} to {y.max():g}, stored as {y.dtype}, "
        "and are learned as numbers: use y.astype(int) if they are classes, or "
        "data.task=regression if they are numbers"
    ]


def _label_warnings(raw: Raw, held_out_N: np.ndarray, name: str, source: str) -> list[str]:
    del source
    count_C = raw.y_train[~held_out_N].sum(axis=0)
    missing = np.flatnonzero(count_C == 0).tolist()
    if not missing:
        return []
    return [
        f"{name}: no training example has {plausible.listed(missing, 'label')}, so that a model "
        "cannot learn them: leave them out"
    ]


CLASSIFICATION = Kind(
    "classification",
    _check_classes,
    _class_warnings,
    np.int32,
    lambda y: int(y.max()) + 1,
    has_classes=True,
)
REGRESSION = Kind(
    "regression",
    _check_numbers,
    _number_warnings,
    np.float32,
    lambda y: y.shape[1] if y.ndim > 1 else 1,
    is_scaled=True,
)
MULTI_LABEL = Kind("multi_label", _check_labels, _label_warnings, np.uint8, lambda y: y.shape[1])
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (CLASSIFICATION, REGRESSION, MULTI_LABEL)}


def warnings_of(
    raw: Raw, task: str, kind: Kind, held_out_N: np.ndarray, name: str, source: str
) -> list[str]:
    """Warnings about the targets, one line each.

    Args:
      raw: arrays that the kind's `check` accepts.
      task: as in `kind_of`; with 'auto', there is also a warning if the kind may be wrong.
      kind: what `kind_of` returned.
      held_out_N: bool, the training examples that are held out for validation.
      name: of the data.
      source: file or folder, for errors.

    Raises:
      DataError: targets of training and test examples are on different scales.
    """
    guessed = kind is REGRESSION and task == "auto"
    return [
        *kind.warnings(raw, held_out_N, name, source),
        *(_whole_number_warnings(raw.y_train, name) if guessed else ()),
    ]
