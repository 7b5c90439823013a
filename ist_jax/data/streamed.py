"""Data sets that are streamed from disk during training, for those that do not fit into memory.

Order and shards are those of a data set in memory: a round draws the same examples, and a resumed
run continues where it stopped. A thread reads one round ahead. While a round trains, memory holds
its examples and those of the next round, the latter briefly twice (on host and device).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.processes import key_on, over_devices, replicate
from ist_jax.core.sample_order import ByDevice, Shards, View, draw
from ist_jax.core.types import Key
from ist_jax.data import plausible
from ist_jax.data.base import Chunk, Chunks, Dataset
from ist_jax.data.held_out import random_share
from ist_jax.data.raw import DataError
from ist_jax.data.rows import strided_indices
from ist_jax.data.standardise import check_standardise

Rows = Mapping[str, np.ndarray]  # some rows of all columns
_CHUNK = 4096  # examples evaluated at once; normalisation statistics are measured again for each
_SAMPLE = 512  # training examples whose mean and deviation estimate those of all


@dataclasses.dataclass(frozen=True)
class Column:
    """One of several columns that are read together. `column[rows]` reads all and returns one."""

    columns: "Columns"
    name: str

    def __len__(self) -> int:
        return self.columns.count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.columns.read(rows)[self.name]


class Columns(Mapping[str, Column]):
    """The columns of a split that stays on disk, in place of its arrays.

    Attributes:
      count: number of examples.
      read: rows -> these rows of all columns; every record is read once.
    """

    def __init__(
        self, count: int, read: Callable[[np.ndarray], Rows], names: Sequence[str] = ("x", "y")
    ):
        self.count, self.read, self._names = count, read, tuple(names)

    def take(self, row_N: np.ndarray) -> "Columns":
        """The columns of these rows alone, as another split."""
        return Columns(len(row_N), lambda rows: self.read(row_N[rows]), self._names)

    def __getitem__(self, name: str) -> Column:
        if name not in self._names:
            raise KeyError(name)
        return Column(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def columns_of(source: Any) -> Columns:
    """The columns of a source that has `len` and whose items are mappings of arrays.

    A `grain.MapDataset` and the data sources of grain and TFDS are such sources.
    """

    def read(rows: np.ndarray) -> Rows:
        items = [source[row] for row in rows.tolist()]
        return {name: np.stack([item[name] for item in items]) for name in items[0]}

    return Columns(len(source), read, tuple(source[0]))


@jax.jit
def _orders(view: View, position_P: jax.Array) -> jax.Array:
    """int32[S, P]: the examples at these positions of every worker's stream."""

    def at(worker: jax.Array, position: jax.Array) -> jax.Array:
        return draw(view, worker, position, 1)[0]

    worker_S = jnp.arange(view.shards.start_S.shape[0])
    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(worker_S, position_P)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(Dataset):
    """A `Dataset` whose train, validation and test are `Columns` on disk instead of arrays."""

    train: Columns
    validation: Columns
    test: Columns

    def views(
        self,
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        draws: Iterable[range],
    ) -> Generator[View, None, None]:
        with ThreadPoolExecutor(1, "reading ahead") as thread:
            draws = list(draws)
            orders = self._orders(key, num_workers, draws)
            reads = (thread.submit(self._read, order_SxP, sharding) for order_SxP in orders)
            for drawn, reading in zip(draws, _one_ahead(reads)):
                yield self._place(reading.result(), key, num_workers, sharding, drawn)

    def _orders(self, key: Key, num_workers: int, draws: Iterable[range]) -> Iterator[jax.Array]:
        """For each round, int32[S, P]: the examples that every worker draws.

        It is dispatched before the round that trains meanwhile, so the device computes it first.
        """
        device = jax.local_devices()[0]  # there may be no CPU device: JAX_PLATFORMS=cuda
        shards = jax.device_put(self.shards(num_workers), device)
        seed = jax.random.wrap_key_data(
            jax.device_put(np.asarray(jax.random.key_data(key)), device)
        )
        for drawn in draws:
            if not drawn:
                raise ValueError("a round of a streamed set draws at least one example per worker")
            position_P = jax.device_put(np.arange(drawn.start, drawn.stop, dtype=np.int32), device)
            yield _orders(View((), shards, seed), position_P)

    def _read(self, order_SxP: jax.Array, sharding: jax.sharding.Sharding) -> Mapping[int, Rows]:
        """The examples that this process's workers draw in a round, one part per device.

        The key of a part is the position of its first example among those of all workers.
        """
        order_N = np.asarray(order_SxP).reshape(-1)
        indices = over_devices(sharding).addressable_devices_indices_map(order_N.shape).values()
        parts = [index[0] for index in indices if index is not None]
        return {part.start or 0: self.train.read(order_N[part]) for part in parts}

    def _place(
        self,
        parts: Mapping[int, Rows],
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        drawn: range,
    ) -> View:
        devices, count, over = len(sharding.device_set), len(drawn), over_devices(sharding)

        def place(name: str) -> Any:
            shape = (num_workers * count, *next(iter(parts.values()))[name].shape[1:])
            part = lambda index: parts[index[0].start or 0][name]
            array = jax.make_array_from_callback(shape, over, part)
            return array if devices == 1 else ByDevice(array)

        workers = num_workers // devices  # workers of one device
        start_S = np.tile(np.arange(workers, dtype=np.int32) * count, devices)
        member_N = np.arange(workers * count, dtype=np.int32)
        shards = Shards(member_N, start_S, np.full(num_workers, count, np.int32))
        shards, first = jax.device_put((shards, np.int32(drawn.start)), sharding)
        arrays = {name: place(name) for name in self.train}
        return View(arrays, shards, key_on(sharding, key), first)

    def chunks(
        self, parts: Sequence[str], sharding: jax.sharding.Sharding, batch_size: int
    ) -> Iterator[Chunks]:
        """Chunks of equal size, of several full batches each; one chunk is read ahead."""
        pieces = [piece for part in parts for piece in self._pieces(part, batch_size)]
        # device_put would compare the values of all processes over the network
        put = lambda value: replicate(sharding, np.asarray(value))
        with ThreadPoolExecutor(1, "reading ahead") as thread:
            reads = (thread.submit(getattr(self, part).read, rows) for part, rows, _ in pieces)
            for (part, _, count), reading in zip(pieces, _one_ahead(reads)):
                yield {part: Chunk(*jax.tree.map(put, (reading.result(), np.int32(count))))}

    def _pieces(self, part: str, batch_size: int) -> Iterator[tuple[str, np.ndarray, int]]:
        """(part, rows, number of rows to count). Rows that do not count fill the last piece."""
        length = getattr(self, part).count
        size = min(length, max(_CHUNK // batch_size, 1) * batch_size)
        for start in range(0, length, size):
            yield part, np.arange(start, start + size) % length, min(size, length - start)

    def calibration(self, size: int) -> Rows:
        return self.train.read(strided_indices(self.num_train, size))

    def arrays(self, part: str) -> Mapping[str, Any]:
        """{}: no arrays are in memory."""
        return {}


def _one_ahead(reads: Iterable[Any]) -> Iterator[Any]:
    """Yields `reads`; each one is started before the one before it is used."""
    for read, _ in itertools.pairwise(itertools.chain(reads, [None])):
        yield read


class RawStream(NamedTuple):
    """A streamed set as its source opens it.

    Attributes:
      train, test: columns 'x' and 'y'.
      num_classes: C.
      example_shape: of one input as a model sees it; inputs on disk may be larger.
      fingerprint: of the files.
      notes: what the source does to the data, for records.
    """

    train: Columns
    test: Columns
    num_classes: int
    example_shape: tuple[int, ...]
    fingerprint: str
    notes: Mapping[str, Any] = {}


def make_streamed(
    raw: RawStream,
    name: str,
    *,
    source: str,
    validation_fraction: float,
    shards: Callable[[np.ndarray, int], Shards],
    standardise: str = "whole",
) -> Streamed:
    """The data set of `raw`, with a random validation split.

    Labels stay on disk, so a class may be left without a training example.

    Args:
      raw: as its source opened it.
      name: for records.
      source: folder, for errors.
      validation_fraction: share of the training examples, in (0, 1).
      shards: (labels of the training examples, num_workers) -> Shards. Labels are on disk, so it
        is given zeros in their place.
      standardise: 'whole' or 'none', as in `standardise.moments`.

    Raises:
      DataError: a split is empty, training and test inputs are on different scales, or
        `standardise` needs all inputs.
    """
    check_standardise(standardise)
    if standardise == "per_feature":
        raise DataError(
            "data.standardise='per_feature' needs all inputs in memory, and a streamed set has "
            "them on disk: use whole or none"
        )
    held_out_N = random_share(raw.train.count, validation_fraction)
    chosen, rest = np.flatnonzero(held_out_N), np.flatnonzero(~held_out_N)
    if not len(chosen) or not len(rest) or not raw.test.count:
        raise DataError(
            f"{source}: {len(rest)} training, {len(chosen)} validation and {raw.test.count} test "
            f"examples; every split needs one"
        )
    train = raw.train.take(rest)
    sample = train.read(strided_indices(train.count, _SAMPLE))["x"]
    mean, std, notes = 0.0, 1.0, dict(raw.notes)
    if standardise == "whole":
        mean, std = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        notes["mean and deviation"] = f"of {len(sample)} training examples"
    return Streamed(
        name=name,
        train=train,
        validation=raw.train.take(chosen),
        test=raw.test,
        num_classes=raw.num_classes,
        mean=mean,
        std=std if std > 0 else 1.0,
        fingerprint=raw.fingerprint,
        shards=functools.partial(shards, np.zeros(len(rest), np.int32)),
        notes=notes,
        example_shape=raw.example_shape,
        warnings=tuple(_compared(sample, raw.test, name, source)),
    )


def _compared(sample: np.ndarray, test: Columns, name: str, source: str) -> list[str]:
    """The warning of `plausible.compare` about training and test inputs, or []."""
    rows = strided_indices(test.count, min(_SAMPLE, plausible.LEAST_ROWS))
    train = plausible.summary(plausible.sampled(sample, sample.shape[1:]))
    return plausible.compare(train, plausible.summary(test.read(rows)["x"]), name, source)
