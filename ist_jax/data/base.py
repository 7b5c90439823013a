"""Data sets in memory: what each round may index, and what is evaluated."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.core.processes import key_on, over_devices
from ist_jax.core.sample_order import ByDevice, Shards, View, split_by_device
from ist_jax.core.types import Key
from ist_jax.data.rows import RowStore, strided_indices
from ist_jax.data.spec import Moment, Spec

Arrays = Mapping[str, np.ndarray | RowStore]  # {'x': [N, ...], 'y': [N] or [N, K]}


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
      train, validation, test: the examples, {'x': [N, ...], 'y': [N] or [N, K]}; the examples of a
        graph are its clusters. 'x' of `train` may be a `RowStore`. 'y' is as `task` needs it: int32
        classes [N], float32 targets [N] or [N, K], or uint8 0 and 1 for every label, [N, C].
      num_classes: as in `Spec`.
      mean, std: of all training inputs, for the task's normalisation, as in `Spec`.
      fingerprint: SHA-256 of all arrays.
      shards: num_workers -> the shard of examples that each worker draws from.
      notes: what the source did to the data, for records.
      task: the kind of data, as in `Spec`.
      example_shape: of one input, without a batch axis; () stands for the shape in 'x', or in the
        first array if there is no 'x'.
      dtype, vocabulary, bytes_per_token: as in `Spec`.
      target_mean, target_std: of training targets, as in `Spec`.
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
    target_mean: Moment = 0.0
    target_std: Moment = 1.0
    vocabulary: str = ""
    bytes_per_token: float = 0.0
    _cache: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, init=False)

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
        return Spec(
            self.example_shape or self._shape_of_rows(),
            self.num_classes,
            self.num_train,
            self.mean,
            self.std,
            self.task,
            self.dtype,
            self.target_mean,
            self.target_std,
            self.vocabulary,
            self.bytes_per_token,
        )

    def _shape_of_rows(self) -> tuple[int, ...]:
        rows = self.calibration(1)
        return np.shape(rows["x"] if "x" in rows else next(iter(rows.values())))[1:]

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input as a model sees it, shape (1, ...)."""
        return self.spec.example
