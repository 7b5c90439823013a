"""From raw arrays to a data set in memory: checks, the validation split, the fingerprint."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ist_jax.core.sample_order import Shards
from ist_jax.data import plausible, targets
from ist_jax.data.base import Arrays, Dataset
from ist_jax.data.held_out import held_out
from ist_jax.data.raw import DataError, Raw, check, check_int32, reraise_as
from ist_jax.data.rows import RowStore, blocks, in_memory, mapped
from ist_jax.data.sparse import SparseRows
from ist_jax.data.standardise import moments


def make_dataset(
    raw: Raw,
    name: str,
    *,
    source: str,
    validation_fraction: float,
    shards: Callable[[np.ndarray, int], Shards],
    stored: bool = False,
    standardise: str = "whole",
    task: str = "auto",
) -> Dataset:
    """Checks raw arrays and holds out the validation split from the training examples.

    The split is random, by groups if the source names them (`data.held_out`). It is the same for
    every seed, so that runs with several seeds are validated alike.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      validation_fraction: share of the training examples, in (0, 1).
      shards: (targets of the training examples, num_workers) -> Shards.
      stored: whether training inputs stay in their file until rows of them are read. This saves
        memory in a process that reads only some rows.
      standardise: how a task normalises inputs, as in `moments`.
      task: what the targets are: a name of `targets.KINDS`, or 'auto' (`targets.kind_of`).

    Raises:
      DataError: the arrays do not fit together or do not fit the task, training and test inputs are
        on different scales, or a split is empty.
    """
    raw = _read(raw, stored, source)
    check(raw, source)
    kind = targets.kind_of(raw, task, source)
    kind.check(raw, source)
    dtypes = _stored_dtypes(raw, standardise)
    warnings = [*raw.warnings, *_input_warnings(raw, dtypes.model, name, source, standardise)]
    held_out_N = _held_out(raw, kind, validation_fraction, source)
    warnings += targets.warnings_of(raw, task, kind, held_out_N, name, source)
    chosen, rest = np.flatnonzero(held_out_N), np.flatnonzero(~held_out_N)
    x_rest = _take(raw.x_train, rest, dtypes.train, stored)
    y_train, y_test = (y.astype(kind.dtype) for y in (raw.y_train, raw.y_test))
    train = _columns(x_rest) | {"y": y_train[rest]}
    validation = _columns(_take(raw.x_train, chosen, dtypes.train)) | {"y": y_train[chosen]}
    every = np.arange(len(y_test))
    test = _columns(_take(raw.x_test, every, dtypes.test)) | {"y": y_test}
    mean, std = moments(x_rest, standardise)
    target_mean, target_std = kind.moments(train["y"])
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        num_classes=kind.num_outputs(y_train),
        mean=mean,
        std=std,
        fingerprint=_fingerprint(train, validation, test),
        shards=functools.partial(shards, train["y"]),
        notes=raw.notes,
        task=kind.name,
        example_shape=tuple(raw.x_train.shape[1:]),
        common=_common(x_rest),
        warnings=tuple(warnings),
        dtype=dtypes.model,
        target_mean=target_mean,
        target_std=target_std,
    )


def _read(raw: Raw, stored: bool, source: str) -> Raw:
    """`raw` with inputs that can be read by rows: in memory, memory-mapped, or sparse."""
    x_train, x_test = raw.x_train, raw.x_test
    if isinstance(x_train, SparseRows) or isinstance(x_test, SparseRows):
        return raw
    with reraise_as(source):
        read = mapped if stored else in_memory
        return raw._replace(x_train=read(x_train), x_test=in_memory(x_test))


class _Dtypes(NamedTuple):
    """The dtypes in which training and test inputs are stored, and that of a model's inputs."""

    train: Any
    test: Any
    model: str


def _stored_dtypes(raw: Raw, standardise: str) -> _Dtypes:
    """The dtypes of inputs. Batches are cast, not the data set.

    With standardise='none', integers stay integers, for models of tokens or categories. uint8
    stands for images, which become floats, as sparse inputs do.
    """
    dtypes = [raw.x_train.dtype, raw.x_test.dtype]
    is_kept = standardise == "none" and not isinstance(raw.x_train, SparseRows)
    are_integers = all(np.issubdtype(dtype, np.integer) for dtype in dtypes)
    if is_kept and are_integers and any(dtype != np.uint8 for dtype in dtypes):
        return _Dtypes(np.int32, np.int32, "int32")
    return _Dtypes(*(np.uint8 if d == np.uint8 else np.float32 for d in dtypes), model="float32")


def _input_warnings(
    raw: Raw, dtype: str, name: str, source: str, standardise: str
) -> Sequence[str]:
    """Warnings about inputs on odd scales. Tokens and categories have no scale.

    Raises:
      DataError: training and test inputs are on different scales, or integers exceed int32.
    """
    if dtype == "int32":
        check_int32(raw, source)
        return ()
    return plausible.input_warnings(raw, name, source, standardise)


def _held_out(raw: Raw, kind: targets.Kind, fraction: float, source: str) -> np.ndarray:
    """bool[N]: the training examples that are held out. Raises DataError if a split is empty."""
    held_out_N = held_out(kind.classes(raw.y_train), raw.group_train, fraction)
    if held_out_N.all() or not held_out_N.any():
        raise DataError(
            f"{source}: validation_fraction={fraction} of {len(held_out_N)} training "
            f"examples leaves an empty split"
        )
    return held_out_N


def _take(x: Any, rows: np.ndarray, dtype: Any, stored: bool = False) -> Any:
    """Some rows of inputs. With `stored`, they stay in their file until they are read."""
    if isinstance(x, SparseRows):
        return x.take(rows)
    if stored:
        return RowStore(x, rows, dtype)
    return np.ascontiguousarray(x[rows].astype(dtype, copy=False))


def _columns(x: Any) -> dict[str, Any]:
    """The arrays that hold the inputs of a split, by name."""
    return x.columns() if isinstance(x, SparseRows) else {"x": x}


def _common(x: Any) -> Mapping[str, Mapping[str, Any]]:
    """`Dataset.common`: for sparse inputs, zeros as long as an input, into which tasks put rows."""
    if not isinstance(x, SparseRows):
        return {}
    zeros = {"zeros_D": np.zeros(x.shape[1], np.float32)}
    return {part: zeros for part in ("train", "validation", "test")}


def _fingerprint(*parts: Arrays) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, array in sorted(part.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for block in blocks(array, "fingerprint"):
                digest.update(block.tobytes())
    return digest.hexdigest()
