"""A streamed set trains as one in memory does, reads a round at a time, and resumes exactly."""

import dataclasses
import functools
import itertools
import re
import threading
import time

import jax
import numpy as np
import pytest
from cases import METHODS, TASK, also_slowly, dataset

from ist_jax import LoopConfig, run
from ist_jax.core.placement import looped, sharded, subnet_mesh
from ist_jax.core.sample_order import ByDevice, draw
from ist_jax.data import Dataset, Streamed, streamed
from ist_jax.data.splits import disjoint, shared
from ist_jax.data.streamed import Columns
from ist_jax.training.loggers import flatten
from ist_jax.training.loop import Stopped

SPLITS = {"shared": shared, "disjoint": functools.partial(disjoint, seed=0)}
CONFIG = LoopConfig(eval_every=3, eval_batch_size=8, calibration_examples=24)
KEY = jax.random.key(5)


def columns_of(arrays, reads):
    """Columns in place of arrays. `reads` keeps which split was read, and how many rows."""

    def read(rows):
        assert isinstance(rows, np.ndarray)
        reads.append((len(rows), threading.current_thread().name))
        return {name: array[rows] for name, array in arrays.items()}

    return Columns(len(arrays["y"]), read)


def on_disk(data, read=None):
    """`data` as a streamed set."""
    values = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(Dataset)
        if field.name != "_cache"
    }
    read = [] if read is None else read
    for part in ("train", "validation", "test"):
        values[part] = columns_of(values[part], read)
    return Streamed(**values | {"example_shape": data.train["x"].shape[1:]})


def without_times(rows):
    """Nor FLOPs: indexing a data set in memory takes some."""
    return [
        {name: value for name, value in flatten(row) if not re.search("second|flops", name)}
        for row in rows
    ]


PLACES = {"looped": looped, "sharded": lambda: sharded(subnet_mesh(2), looped())}
TRAINED = list(itertools.product(["ist", "data-parallel"], SPLITS, PLACES))
FAST = [("data-parallel", "shared", "looped")]


@pytest.mark.parametrize("name,split,place", also_slowly(FAST, TRAINED))
def test_streamed_training_is_that_in_memory(name, split, place, monkeypatch):
    """The last round has 2 steps, the others 3. The last chunk of a split is not full."""
    monkeypatch.setattr(streamed, "_CHUNK", 16)
    data, samples = dataset(shards=SPLITS[split]), 4 * METHODS[name](4).batch_size * 14

    def train(data):
        return run([(METHODS[name](4, PLACES[place]()), samples, 3)], TASK, data, CONFIG)

    expected, streamed_results = train(data), train(on_disk(data))
    jax.tree.map(np.testing.assert_array_equal, streamed_results.params, expected.params)
    for row, other in zip(
        without_times(streamed_results.history), without_times(expected.history), strict=True
    ):
        assert row.keys() == other.keys()
        for field, value in row.items():
            if value is None:  # not counted
                assert other[field] is None, field
            else:
                np.testing.assert_allclose(value, other[field], rtol=1e-5, err_msg=field)


def test_a_round_is_read_ahead_and_once():
    read, data = [], dataset()
    data = on_disk(data, read)
    sharding = looped_sharding()
    views = data.views(KEY, 2, sharding, [range(0, 8), range(8, 16), range(16, 18)])
    assert next(views).first == 0
    for _ in range(1000):
        if len(read) == 2:
            break
        time.sleep(0.01)
    assert len(read) == 2, "the next round is read before it is asked for"
    assert [view.first for view in views] == [8, 16]
    assert [count for count, _ in read] == [16, 16, 4], "no round twice, nothing past the end"
    assert all(name.startswith("reading ahead") for _, name in read)
    with pytest.raises(ValueError, match="draws at least one example"):
        next(data.views(KEY, 2, sharding, [range(0)]))


def test_views_that_nobody_takes_any_more_end_their_thread():
    views = on_disk(dataset()).views(KEY, 2, looped_sharding(), [range(0, 8), range(8, 16)])
    next(views)
    views.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("reading ahead")]


def test_streaming_needs_no_cpu_beside_an_accelerator(monkeypatch):
    """JAX_PLATFORMS=cuda alone leaves none, and to ask for one is a RuntimeError."""

    def on_accelerator(plain):
        def devices(*args, backend=None):
            if backend is not None:
                raise RuntimeError(f"Unknown backend {backend}")
            return plain(*args)

        return devices

    for name in ("devices", "local_devices"):
        monkeypatch.setattr(jax, name, on_accelerator(getattr(jax, name)))
    memory = dataset()
    inputs = next(on_disk(memory).views(KEY, 2, looped_sharding(), [range(4, 8)])).arrays["x"]
    view = next(memory.views(KEY, 2, looped_sharding(), [range(1)]))
    rows = np.concatenate(
        [draw(view, jax.numpy.int32(worker), jax.numpy.int32(4), 4) for worker in range(2)]
    )
    np.testing.assert_array_equal(inputs, memory.train["x"][rows])


def looped_sharding():
    return METHODS["ist"](2).sharding


@pytest.mark.parametrize("split", SPLITS)
def test_workers_see_different_examples_and_a_device_has_no_others(split):
    memory = dataset(shards=SPLITS[split])
    mesh = sharded(subnet_mesh(2))
    view = next(on_disk(memory).views(KEY, 4, mesh.replicated_sharding, [range(10, 15)]))
    assert isinstance(view.arrays["x"], ByDevice)
    held = np.asarray(view.arrays["x"].tree).reshape(4, 5, -1)
    assert len({worker.tobytes() for worker in held}) == 4
    assert [part.data.shape[0] for part in view.arrays["x"].tree.addressable_shards] == [10, 10]
    if split == "disjoint":
        shards = memory.shards(4)
        for worker, rows in enumerate(held):
            start, size = shards.start_S[worker], shards.size_S[worker]
            members = shards.member_N[start : start + size]
            assert {row.tobytes() for row in rows} <= {
                row.tobytes() for row in memory.train["x"][members]
            }


def test_never_more_than_a_round_is_read_at_once():
    read = []
    method = METHODS["ist"](2)
    round_of = 2 * 2 * method.batch_size
    run(
        [(method, 5 * round_of, 2)],
        TASK,
        on_disk(dataset(400), read),
        dataclasses.replace(CONFIG, eval_every=0),
    )
    assert max(count for count, _ in read) <= max(round_of, 60), (
        "a round's examples; 60 are the test set"
    )
    assert dataset(400).num_train / 2 > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ist", "data-parallel"])
def test_a_streamed_run_that_is_stopped_resumes_exactly(name, tmp_path):
    def phases():
        return [(METHODS[name](2), 2 * 3 * METHODS[name](2).batch_size * 6, 3)]

    config = dataclasses.replace(CONFIG, checkpoint_every=2)
    unbroken = run(phases(), TASK, on_disk(dataset()), config)
    asked = iter([False, False, False, True])
    with pytest.raises(Stopped):
        run(phases(), TASK, on_disk(dataset()), config, tmp_path, stop=lambda: next(asked))
    resumed = run(phases(), TASK, on_disk(dataset()), config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, unbroken.params)
    assert without_times(resumed.history) == without_times(unbroken.history)


def test_columns_are_made_of_any_source_with_items():
    """Such as a grain.MapDataset; a list of mappings will do."""
    source = [{"x": np.full(3, i), "y": 10 * i} for i in range(5)]
    columns = streamed.columns_of(source)
    assert (columns.count, list(columns)) == (5, ["x", "y"])
    rows = columns.take(np.array([4, 2, 0])).read(np.array([1, 0]))
    np.testing.assert_array_equal(rows["x"], [[2, 2, 2], [4, 4, 4]])
    np.testing.assert_array_equal(columns["y"][np.array([3])], [30])
