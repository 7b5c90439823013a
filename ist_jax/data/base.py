"""From raw arrays to a Dataset: the validation split, the workers' shards, the fingerprint."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.core.processes import key_on, over_devices
from ist_jax.core.sample_order import ByDevice, Shards, View, split_by_device
from ist_jax.core.types import Key
from ist_jax.data import plausible
from ist_jax.data.held_out import held_out
from ist_jax.data.raw import DataError, Raw, check, check_int32, reraise_as
from ist_jax.data.rows import RowStore, blocks, in_memory, mapped, strided_indices
from ist_jax.data.spec import Moment, Spec
from ist_jax.data.standardise import moments

Arrays = Mapping[str, np.ndarray | RowStore]  # {'x': [N, ...], 'y': int32[N]}


class Chunk(NamedTuple):
    """Examples that one call of a program evaluates.

    Attributes:
      arrays: of a split.
      count: int32[]; only the first `count` examples are evaluated. None: all of them.
    """

    arrays: Mapping[str, Any]
    num_examples: jax.Array | None = None


Chunks = Mapping[str, Chunk]  # by split


def strided_rows(arrays: Arrays, size: int) -> Arrays:
    """`size` evenly spaced examples, or all examples if there are fewer."""
    rows = strided_indices(len(next(iter(arrays.values()))), size)
    return {name: array[rows] for name, array in arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, and what a run needs to know about it.

    Attributes:
      name: for records.
      train, validation, test: the examples, {'x': [N, ...], 'y': int32[N]}; the examples of a graph
        are its clusters. 'x' of `train` may be a `RowStore`.
      num_classes: C.
      mean, std: of all training inputs, for the task's normalisation, as in `Spec`.
      fingerprint: SHA-256 of all arrays.
      shards: num_workers -> the shard of examples that each worker draws from.
      notes: what the source did to the data, for records.
      task: the kind of data, as in `Spec`.
      example_shape: of one input, without a batch axis; () stands for the shape in 'x'.
      dtype, vocabulary, bytes_per_token: as in `Spec`.
      common: split -> arrays that belong to no single example, such as the graph whose clusters are
        the examples. Every device holds them.
      warnings: about anything odd in the data, one line each. A run prints and records them.
    """

    name: str
    train: Arrays
    validation: Arrays
    test: Arrays
    num_classes: int
    mean: Moment
    std: Moment
    fingerprint: str
    shards: Callable[[int], Shards]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = "classification"
    example_shape: tuple[int, ...] = ()
    common: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    dtype: str = "float32"
    vocabulary: str = ""
    bytes_per_token: float = 0.0
    _cache: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def views(
        self,
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        draws: Iterable[range],
    ) -> Generator[View, None, None]:
        """The training examples that each round of a phase draws from.

        On a mesh whose workers draw from disjoint shards, every device holds its workers' shards.
        Otherwise every device holds the full training set. A streamed set (`data.streamed`) holds
        the examples of one round, and reads those of the next round meanwhile.

        Args:
          key: of the data order, one for all rounds of the phase.
          num_workers: S.
          sharding: of values that every device holds.
          draws: for each round, the positions that it draws from every worker's stream.

        Yields:
          One view per round.
        """
        arrays, shards = self._cached(
            (num_workers, sharding), lambda: self._place_train(num_workers, sharding)
        )
        view = View(arrays, shards, key_on(sharding, key))
        for _ in draws:
            yield view

    def _place_train(self, num_workers: int, sharding: jax.sharding.Sharding) -> tuple[Any, Shards]:
        shards, devices = self.shards(num_workers), len(sharding.device_set)
        is_shared = shards.size_S.sum() > self.num_train  # every worker draws from all examples
        if devices == 1 or is_shared:
            return self.on_device("train", sharding), jax.device_put(shards, sharding)
        parts, local = split_by_device(shards, devices)
        over = over_devices(sharding)

        def place(array: np.ndarray | RowStore) -> jax.Array:
            part = lambda index: array[parts[(index[0].start or 0) // parts.shape[1]]]
            return jax.make_array_from_callback((parts.size, *array.shape[1:]), over, part)

        arrays = {name: ByDevice(place(array)) for name, array in self.train.items()}
        return arrays | self._common("train", sharding), jax.device_put(local, sharding)

    def on_device(self, part: str, sharding: jax.sharding.Sharding) -> Mapping[str, jax.Array]:
        """The arrays of 'train', 'validation' or 'test' on the devices, copied there once."""

        def put() -> Mapping[str, jax.Array]:
            arrays = {name: np.asarray(array) for name, array in getattr(self, part).items()}
            return jax.device_put(arrays, sharding) | self._common(part, sharding)

        return self._cached((part, sharding), put)

    def chunks(
        self, parts: Sequence[str], sharding: jax.sharding.Sharding, batch_size: int
    ) -> Iterator[Chunks]:
        """The splits `parts` on the devices of `sharding`, in the chunks that are evaluated.

        A data set in memory yields all splits at once. A streamed set yields one chunk of one split
        at a time, of several batches of `batch_size`.
        """
        del batch_size
        yield {part: Chunk(self.on_device(part, sharding)) for part in parts}

    def arrays(self, part: str) -> Mapping[str, Any]:
        """All arrays of 'train', 'validation' or 'test', on the host."""
        return {**getattr(self, part), **self.common.get(part, {})}

    def _common(self, part: str, sharding: jax.sharding.Sharding) -> dict[str, Any]:
        """A split's `common` arrays on the devices. Arrays that splits share are copied once."""

        def put(leaf: Any) -> Any:
            return self._cached((id(leaf), sharding), lambda: jax.device_put(leaf, sharding))

        return jax.tree.map(put, dict(self.common.get(part, {})))

    def calibration(self, size: int) -> Arrays:
        """The `size` training examples on which normalisation statistics are measured.

        They are the same in every call.
        """
        return strided_rows(self.train, size)

    def calibration_batch(
        self, size: int, sharding: jax.sharding.Sharding
    ) -> Mapping[str, jax.Array]:
        """`calibration(size)` and the training split's `common` arrays, on the devices."""
        examples = self._cached(
            ("calibration", size, sharding),
            lambda: jax.device_put(self.calibration(size), sharding),
        )
        return examples | self._common("train", sharding)

    def _cached(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def num_train(self) -> int:
        return len(next(iter(self.train.values())))

    @property
    def spec(self) -> Spec:
        shape = self.example_shape or self.train["x"].shape[1:]
        return Spec(
            shape,
            self.num_classes,
            self.num_train,
            self.mean,
            self.std,
            self.task,
            self.dtype,
            self.vocabulary,
            self.bytes_per_token,
        )

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input as a model sees it, shape (1, ...)."""
        return self.spec.example


def _stored_dtypes(raw: Raw, standardise: str) -> tuple[np.dtype, np.dtype]:
    """The dtypes in which training and test inputs are stored. Batches are cast, not the data set.

    With standardise='none', integers stay integers, for models of tokens or categories. uint8
    stands for images, which are always standardised to floats.
    """
    dtypes = raw.x_train.dtype, raw.x_test.dtype
    are_integers = all(np.issubdtype(dtype, np.integer) for dtype in dtypes)
    if standardise == "none" and are_integers and set(dtypes) != {np.dtype(np.uint8)}:
        return np.dtype(np.int32), np.dtype(np.int32)
    train, test = (np.uint8 if dtype == np.uint8 else np.float32 for dtype in dtypes)
    return np.dtype(train), np.dtype(test)


def _arrays(
    x: np.ndarray | RowStore,
    y: np.ndarray,
    rows: np.ndarray,
    dtype: np.dtype,
    *,
    stored: bool = False,
) -> Arrays:
    """Some rows as a split. With `stored`, inputs stay in their file until rows are read."""
    if stored:
        inputs = RowStore(x, rows, dtype)
    else:
        inputs = np.ascontiguousarray(x[rows].astype(dtype, copy=False))
    return {"x": inputs, "y": y[rows].astype(np.int32)}


def _fingerprint(*parts: Arrays) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, array in sorted(part.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for block in blocks(array, "fingerprint"):
                digest.update(block.tobytes())
    return digest.hexdigest()


def make_dataset(
    raw: Raw,
    name: str,
    *,
    source: str,
    validation_fraction: float,
    shards: Callable[[np.ndarray, int], Shards],
    stored: bool = False,
    standardise: str = "whole",
) -> Dataset:
    """Checks raw arrays and holds out the validation split from the training examples.

    The split is random, by groups if the source names them (`data.held_out`). It is the same for
    every seed, so that runs with several seeds are validated alike.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      validation_fraction: share of the training examples, in (0, 1).
      shards: (labels of the training examples, num_workers) -> Shards.
      stored: whether training inputs stay in their file until rows of them are read. This saves
        memory in a process that reads only some rows.
      standardise: how a task normalises inputs, as in `moments`.

    Raises:
      DataError: the arrays do not fit together, training and test inputs are on different scales,
        or a split is empty.
    """
    with reraise_as(source):
        x_train = (mapped if stored else in_memory)(raw.x_train)
        raw = raw._replace(x_train=x_train, x_test=in_memory(raw.x_test))
    check(raw, source)
    held_out_N = held_out(raw.y_train, raw.group_train, validation_fraction)
    if held_out_N.all() or not held_out_N.any():
        raise DataError(
            f"{source}: validation_fraction={validation_fraction} of {len(held_out_N)} training "
            f"examples leaves an empty split"
        )
    dtype, test_dtype = _stored_dtypes(raw, standardise)
    seen_dtype = "int32" if dtype == np.int32 else "float32"
    if seen_dtype == "int32":
        check_int32(raw, source)
    warnings = raw.warnings + plausible.warnings_of(
        raw, held_out_N, name, source, standardise, seen_dtype
    )
    chosen, rest = np.flatnonzero(held_out_N), np.flatnonzero(~held_out_N)
    train = _arrays(x_train, raw.y_train, rest, dtype, stored=stored)
    validation = _arrays(x_train, raw.y_train, chosen, dtype)
    test = _arrays(raw.x_test, raw.y_test, np.arange(len(raw.y_test)), test_dtype)
    mean, std = moments(train["x"], standardise)
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        num_classes=int(raw.y_train.max()) + 1,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(train, validation, test),
        shards=functools.partial(shards, np.asarray(train["y"])),
        notes=raw.notes,
        warnings=warnings,
        dtype=seen_dtype,
    )
