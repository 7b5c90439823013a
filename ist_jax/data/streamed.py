"""Data sets that are read from disk while they are trained on, and are never whole in memory.

A round's examples are those that resident training would draw: order and shards are the same, so that a run that goes on
reads on where it stopped. They are read in a thread, one round ahead: while a round trains, memory holds its examples, and the
next one's twice for a moment (on the host and on their way to the device).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.processes import key_on, replicate
from ist_jax.core.sample_order import ByDevice, Shards, View, draw
from ist_jax.core.types import Key
from ist_jax.data.base import Arrays, Chunk, Chunks, Dataset, random_share, strided_indices
from ist_jax.data.raw import DataError

_CHUNK = 4096  # examples that are evaluated at once; statistics of norms are measured anew for each
_SAMPLE = 512  # training examples whose mean and deviation stand for those of all


@dataclasses.dataclass(frozen=True)
class Column:
    """One of several columns that are read together: `column[rows]` reads these rows, and keeps its own."""

    columns: "Columns"
    name: str

    def __len__(self) -> int:
        return self.columns.count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.columns.read(rows)[self.name]


class Columns(Mapping[str, Column]):
    """What stands for the arrays of a split that are not in memory.

    Attributes:
      count: examples.
      read: rows -> these rows of all columns, every record read once.
    """

    def __init__(
        self, count: int, read: Callable[[np.ndarray], Arrays], names: Sequence[str] = ("x", "y")
    ):
        self.count, self.read, self._names = count, read, tuple(names)

    def chosen(self, row_N: np.ndarray) -> "Columns":
        """Some rows, as a split of their own."""
        return Columns(len(row_N), lambda rows: self.read(row_N[rows]), self._names)

    def __getitem__(self, name: str) -> Column:
        if name not in self._names:
            raise KeyError(name)
        return Column(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@jax.jit
def _orders(view: View, position_P: jax.Array) -> jax.Array:
    """int32[S, P]: the examples at these positions of every worker's stream."""
    worker_S = jnp.arange(view.shards.start_S.shape[0])
    at = lambda worker, position: draw(view, worker, position, 1)[0]
    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(worker_S, position_P)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(Dataset):
    """A `Dataset` whose train, validation and test have columns on disk in the place of arrays."""

    def view(
        self,
        round: int,
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        drawn: range = range(0),
        then: range = range(0),
    ) -> View:
        if not drawn:
            raise ValueError(
                "a streamed set has the examples of one round at a time: say which positions it draws"
            )
        stream = (num_workers, sharding, jax.random.key_data(key).tobytes())
        if self._cache.get("view", (None,))[0] != (stream, drawn):
            parts = self._reading(stream, key, num_workers, sharding, drawn).result()
            self._cache["view"] = (
                (stream, drawn),
                self._placed(parts, key, num_workers, sharding, drawn),
            )
            if then:
                self._cache["ahead"] = (
                    (stream, then),
                    self._reading(stream, key, num_workers, sharding, then),
                )
        return self._cache["view"][1]

    def _reading(
        self, stream: Any, key: Key, num_workers: int, sharding: jax.sharding.Sharding, drawn: range
    ) -> Future:
        """`_parts` in a thread: what is being read ahead, if it is that; what else is, is given up."""
        ahead, future = self._cache.pop("ahead", (None, None))
        if ahead == (stream, drawn):
            return future
        if future is not None:
            future.cancel()
        thread = self._once("thread", lambda: ThreadPoolExecutor(1, "reading ahead"))
        return thread.submit(self._parts, self._order(key, num_workers, drawn), sharding)

    def _order(self, key: Key, num_workers: int, drawn: range) -> jax.Array:
        """int32[S, P]: what every worker draws. Begun before the round that is trained meanwhile, so that it is done before."""
        device = jax.local_devices()[0]  # a CPU's may be none: JAX_PLATFORMS=cuda
        shards = self._once(
            ("shards", num_workers), lambda: jax.device_put(self.shards(num_workers), device)
        )
        seed = jax.random.wrap_key_data(
            jax.device_put(np.asarray(jax.random.key_data(key)), device)
        )
        position_P = jax.device_put(np.arange(drawn.start, drawn.stop, dtype=np.int32), device)
        return _orders(View((), shards, seed), position_P)

    def _parts(self, order_SxP: jax.Array, sharding: jax.sharding.Sharding) -> Mapping[int, Arrays]:
        """The examples that the workers of every device of this process draw, by the first one's place in the round."""
        order_N = np.asarray(order_SxP).reshape(-1)
        where = _over_devices(sharding).addressable_devices_indices_map(order_N.shape).values()
        return {part.start or 0: self.train.read(order_N[part]) for (part,) in where}

    def _placed(
        self,
        parts: Mapping[int, Arrays],
        key: Key,
        num_workers: int,
        sharding: jax.sharding.Sharding,
        drawn: range,
    ) -> View:
        devices, count, over = len(sharding.device_set), len(drawn), _over_devices(sharding)

        def laid(name: str) -> Any:
            shape = (num_workers * count, *next(iter(parts.values()))[name].shape[1:])
            array = jax.make_array_from_callback(
                shape, over, lambda index: parts[index[0].start or 0][name]
            )
            return array if devices == 1 else ByDevice(array)

        here = num_workers // devices
        start_S = np.tile(np.arange(here, dtype=np.int32) * count, devices)
        member_N = np.arange(here * count, dtype=np.int32)
        shards = Shards(member_N, start_S, np.full(num_workers, count, np.int32))
        shards, first = jax.device_put((shards, np.int32(drawn.start)), sharding)
        return View({name: laid(name) for name in self.train}, shards, key_on(sharding, key), first)

    def chunks(
        self, parts: Sequence[str], sharding: jax.sharding.Sharding, batch_size: int
    ) -> Iterator[Chunks]:
        """Chunks of equal size, a whole number of batches if there are several; the next one is read meanwhile."""
        pieces = [piece for part in parts for piece in self._pieces(part, batch_size)]
        with ThreadPoolExecutor(1, "reading ahead") as thread:
            begin = lambda piece: thread.submit(getattr(self, piece[0]).read, piece[1])
            waiting = begin(pieces[0])
            for (part, _, count), following in zip(pieces, [*pieces[1:], None]):
                arrays = waiting.result()
                waiting = begin(following) if following else waiting
                put = lambda value: replicate(
                    sharding, np.asarray(value)
                )  # not compared over the network
                yield {part: Chunk(*jax.tree.map(put, (arrays, np.int32(count))))}

    def _pieces(self, part: str, batch_size: int) -> Iterator[tuple[str, np.ndarray, int]]:
        """(part, rows, how many of them count); the last one's rows go on with the first ones, which do not count."""
        length = getattr(self, part).count
        size = min(length, max(_CHUNK // batch_size, 1) * batch_size)
        for start in range(0, length, size):
            yield part, np.arange(start, start + size) % length, min(size, length - start)

    def sample(self, size: int) -> Arrays:
        return self.train.read(strided_indices(self.num_train, size))

    def arrays(self, part: str) -> Mapping[str, Any]:
        """What belongs to no single example: nothing. The examples themselves are not in memory."""
        return {}


def _over_devices(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Parts of equal length, one on every device of `sharding`."""
    if len(sharding.device_set) == 1:
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.mesh.axis_names[0]))


class RawStream(NamedTuple):
    """What a source of a streamed set opens.

    Attributes:
      train, test: columns 'x' and 'y'.
      num_classes: C.
      example_shape: of an input as a model sees it; those of 'x' may be larger.
      fingerprint: of the files.
      notes: for records.
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
) -> Streamed:
    """The data set of `raw`, its validation split a random share of the training examples as of `make_dataset`.

    Args:
      raw: what a source opened.
      name: for records.
      source: folder, for errors.
      validation_fraction: share of the training examples, in (0, 1).
      shards: (one number per training example, num_workers) -> Shards; labels are on disk, so that it may not look at them.

    Raises:
      DataError: a split is empty.
    """
    held_out_N = random_share(raw.train.count, validation_fraction)
    chosen, rest = np.flatnonzero(held_out_N), np.flatnonzero(~held_out_N)
    if not len(chosen) or not len(rest) or not raw.test.count:
        raise DataError(
            f"{source}: {len(rest)} training, {len(chosen)} validation and {raw.test.count} test examples"
        )
    train = raw.train.chosen(rest)
    sample = train.read(strided_indices(train.count, _SAMPLE))["x"]
    std = float(sample.std(dtype=np.float64))
    return Streamed(
        name=name,
        train=train,
        validation=raw.train.chosen(chosen),
        test=raw.test,
        num_classes=raw.num_classes,
        mean=float(sample.mean(dtype=np.float64)),
        std=std if std > 0 else 1.0,
        fingerprint=raw.fingerprint,
        shards=functools.partial(shards, np.zeros(len(rest), np.int32)),
        notes={**raw.notes, "mean and deviation": f"of {len(sample)} training examples"},
        example_shape=raw.example_shape,
    )
