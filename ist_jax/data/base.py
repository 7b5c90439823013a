"""From raw arrays to a Dataset: the validation split, the workers' shards, the fingerprint."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.core.processes import key_on, over_devices
from ist_jax.core.sample_order import ByDevice, Shards, View, split_by_device
from ist_jax.core.types import Key
from ist_jax.data.progress import busy
from ist_jax.data.raw import DataError, Raw, check, reraise_as
from ist_jax.data.rows import RowStore, blocks, in_memory, mapped, mean_and_std

Arrays = Mapping[str, np.ndarray | RowStore]  # {'x': [N, ...], 'y': int32[N]}


class Chunk(NamedTuple):
    """What one call of a program evaluates: the first `num_examples` of `arrays`; None: all."""

    arrays: Mapping[str, Any]
    num_examples: jax.Array | None = None


Chunks = Mapping[str, Chunk]  # by split


def strided_indices(num_examples: int, size: int) -> np.ndarray:
    """`size` rows, or all, at equal distances: a data set may be sorted by label."""
    return np.linspace(0, num_examples - 1, min(size, num_examples)).astype(np.int32)


def strided_rows(arrays: Arrays, size: int) -> Arrays:
    """`size` examples, or all, at equal distances."""
    rows = strided_indices(len(next(iter(arrays.values()))), size)
    return {name: array[rows] for name, array in arrays.items()}


class Spec(NamedTuple):
    """What a model and a task must know about a data set: plain values, kept in a run's record.

    Attributes:
      example_shape: of one input, without a batch axis.
      num_classes: C.
      num_train: training examples.
      mean, std: of all training inputs, for the task's normalisation.
      task: the kind of data, and so of loss and metrics.
    """

    example_shape: tuple[int, ...]
    num_classes: int
    num_train: int
    mean: float
    std: float
    task: str = "classification"

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Spec":
        """The spec whose `_asdict()` JSON kept as `kept`.

        Raises:
          TypeError, ValueError, KeyError: it is none.
        """
        fields: dict[str, Any] = dict(kept) | {"example_shape": tuple(kept["example_shape"])}
        spec = cls(**fields)
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


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Arrays in memory, with what a run must know about them.

    Attributes:
      name: for records.
      train, validation, test: {'x': [N, ...], 'y': int32[N]}; of a graph, its clusters. 'x' of
        `train` may be a `RowStore`.
      num_classes: C.
      mean, std: of all training inputs, for the task's normalisation.
      fingerprint: SHA-256 of all arrays.
      shards: num_workers -> which examples each worker draws from.
      notes: what the source did to the data, for records.
      task: the kind of data.
      example_shape: of one input, without a batch axis; (): that of 'x'.
      resident: part -> arrays that belong to no single example, such as the graph whose parts are
        the examples; every device holds them.
    """

    name: str
    train: Arrays
    validation: Arrays
    test: Arrays
    num_classes: int
    mean: float
    std: float
    fingerprint: str
    shards: Callable[[int], Shards]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = "classification"
    example_shape: tuple[int, ...] = ()
    resident: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    _cache: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def views(
        self,
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        draws: Iterable[range],
    ) -> Generator[View, None, None]:
        """What each round of a phase may index.

        On a mesh whose workers draw from disjoint shards, every device has the shards of its
        workers. Otherwise every device has the whole training set. A streamed set (`data.streamed`)
        has the examples of one round at a time, and reads those of the next round meanwhile.

        Args:
          key: of the data order, one for the whole phase.
          num_workers: S.
          sharding: of values that every device holds.
          draws: for each round, the positions in every worker's stream that it draws.

        Yields:
          One view per round.
        """
        arrays, shards = self._once(
            (num_workers, sharding), lambda: self._place_train(num_workers, sharding)
        )
        view = View(arrays, shards, key_on(sharding, key))
        for _ in draws:
            yield view

    def _place_train(self, num_workers: int, sharding: jax.sharding.Sharding) -> tuple[Any, Shards]:
        shards, devices = self.shards(num_workers), len(sharding.device_set)
        overlap = shards.size_S.sum() > self.num_train  # workers draw from everything
        if devices == 1 or overlap:
            return self.on_device("train", sharding), jax.device_put(shards, sharding)
        parts, local = split_by_device(shards, devices)
        over = over_devices(sharding)

        def place(array: np.ndarray | RowStore) -> jax.Array:
            part = lambda index: array[parts[(index[0].start or 0) // parts.shape[1]]]
            return jax.make_array_from_callback((parts.size, *array.shape[1:]), over, part)

        arrays = {name: ByDevice(place(array)) for name, array in self.train.items()}
        return arrays | self._resident("train", sharding), jax.device_put(local, sharding)

    def on_device(self, part: str, sharding: jax.sharding.Sharding) -> Mapping[str, jax.Array]:
        """The arrays of 'train', 'validation' or 'test' on the devices, copied there once."""
        arrays = lambda: {name: np.asarray(array) for name, array in getattr(self, part).items()}
        put = lambda: jax.device_put(arrays(), sharding) | self._resident(part, sharding)
        return self._once((part, sharding), put)

    def chunks(
        self, parts: Sequence[str], sharding: jax.sharding.Sharding, batch_size: int
    ) -> Iterator[Chunks]:
        """The splits `parts` in the pieces that an evaluation takes, on the devices of `sharding`.

        All splits are one piece; a streamed set gives one chunk after another, cut for batches of
        `batch_size`.
        """
        del batch_size
        yield {part: Chunk(self.on_device(part, sharding)) for part in parts}

    def arrays(self, part: str) -> Mapping[str, Any]:
        """All arrays of 'train', 'validation' or 'test'."""
        return {**getattr(self, part), **self.resident.get(part, {})}

    def _resident(self, part: str, sharding: jax.sharding.Sharding) -> dict[str, Any]:
        """The arrays that belong to no single example; what several parts share is copied once."""
        put = lambda leaf: self._once((id(leaf), sharding), lambda: jax.device_put(leaf, sharding))
        return jax.tree.map(put, dict(self.resident.get(part, {})))

    def calibration(self, size: int) -> Arrays:
        """`size` training examples to measure normalisation statistics on, always the same."""
        return strided_rows(self.train, size)

    def calibration_batch(
        self, size: int, sharding: jax.sharding.Sharding
    ) -> Mapping[str, jax.Array]:
        """`calibration(size)` on the devices, with the arrays that belong to no single example."""
        put = lambda: jax.device_put(self.calibration(size), sharding)
        resident = self._resident("train", sharding)
        return self._once(("calibration", size, sharding), put) | resident

    def _once(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def num_train(self) -> int:
        return len(next(iter(self.train.values())))

    @property
    def spec(self) -> Spec:
        shape = self.example_shape or self.train["x"].shape[1:]
        return Spec(shape, self.num_classes, self.num_train, self.mean, self.std, self.task)

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input as a model sees it, shape (1, ...)."""
        return self.spec.example


def _arrays(
    x: np.ndarray | RowStore, y: np.ndarray, rows: np.ndarray, *, stored: bool = False
) -> Arrays:
    """Some rows as a split; with `stored`, inputs stay in their file until rows are read."""
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32  # batches are cast, not the data set
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


def random_share(size: int, fraction: float) -> np.ndarray:
    """bool[size]: a random share of so many examples, always the same."""
    chosen = np.random.default_rng(0).permutation(size)[: round(fraction * size)]
    return np.isin(np.arange(size), chosen)


def _held_out(raw: Raw, fraction: float) -> np.ndarray:
    """bool[N]: a random share of the training examples, in whole groups where there are any."""
    rng, size = np.random.default_rng(0), len(raw.y_train)
    if raw.group_train is None:
        return random_share(size, fraction)
    _, group_N = np.unique(raw.group_train, return_inverse=True)
    order = rng.permutation(group_N.max() + 1)
    before = np.concatenate([[0], np.cumsum(np.bincount(group_N)[order])[:-1]])
    return np.isin(group_N, order[before < round(fraction * size)])


def make_dataset(
    raw: Raw,
    name: str,
    *,
    source: str,
    validation_fraction: float,
    shards: Callable[[np.ndarray, int], Shards],
    stored: bool = False,
) -> Dataset:
    """Checks raw arrays and takes the validation split off the training examples.

    The split is random (by groups where the source names them). It is the same for every seed, so
    that runs with several seeds are validated alike.

    Args:
      raw: what a source read.
      name: for records.
      source: file or folder, for errors.
      validation_fraction: share of the training examples, in (0, 1).
      shards: (labels of the training examples, num_workers) -> Shards.
      stored: whether training inputs stay in their file until rows of them are read, for a process
        that needs few.

    Raises:
      DataError: the arrays do not fit together, or a split is empty.
    """
    with reraise_as(source):
        x_train = (mapped if stored else in_memory)(raw.x_train)
        raw = raw._replace(x_train=x_train, x_test=in_memory(raw.x_test))
    check(raw, source)
    held_out_N = _held_out(raw, validation_fraction)
    if held_out_N.all() or not held_out_N.any():
        raise DataError(
            f"{source}: validation_fraction={validation_fraction} of {len(held_out_N)} training "
            f"examples leaves an empty split"
        )
    chosen, rest = np.flatnonzero(held_out_N), np.flatnonzero(~held_out_N)
    train = _arrays(x_train, raw.y_train, rest, stored=stored)
    validation = _arrays(x_train, raw.y_train, chosen)
    test = _arrays(raw.x_test, raw.y_test, np.arange(len(raw.y_test)))
    with busy("mean and deviation"):
        mean, std = mean_and_std(train["x"])
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        num_classes=int(raw.y_train.max()) + 1,
        mean=mean,
        std=std if std > 0 else 1.0,
        fingerprint=_fingerprint(train, validation, test),
        shards=functools.partial(shards, np.asarray(train["y"])),
        notes=raw.notes,
    )
