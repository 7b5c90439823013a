"""Workers with disjoint shards: on a mesh, every device has only its workers' examples."""

import functools
import gzip
import itertools
import resource
import tempfile

import jax
import numpy as np
import pytest
from cases import METHODS, dataset, params_of, rounds
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax.core.placement import looped, sharded, subnet_mesh
from ist_jax.core.sample_order import ByDevice, split_by_device
from ist_jax.data import DataError, load
from ist_jax.data.rows import RowStore, mean_and_std
from ist_jax.data.splits import shards_of

SPLITS = {
    "disjoint": functools.partial(shards_of, "disjoint", 0, 1.0),
    "dirichlet": functools.partial(shards_of, "dirichlet", 0, 1.0),
}


TRAINED = list(itertools.product(["ist", "data-parallel", "diloco"], SPLITS))


@pytest.mark.slow
@pytest.mark.parametrize("name,split", TRAINED)
def test_training_is_that_of_one_device_that_has_everything(name, split):
    data = dataset(shards=SPLITS[split])

    def find(placement):
        return METHODS[name](4, placement)

    alone = find(looped())
    expected = params_of(alone, rounds(alone, 2, data=data)[0])
    for devices in (2, 4):
        spread = find(sharded(subnet_mesh(devices), looped()))
        params = params_of(spread, rounds(spread, 2, data=data)[0])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, expected
        )


@pytest.mark.parametrize("devices", [2, 4])
def test_a_device_has_its_workers_examples_alone(devices):
    data, mesh = dataset(shards=SPLITS["disjoint"]), sharded(subnet_mesh(devices))
    view = next(data.views(jax.random.key(0), 4, mesh.replicated_sharding, [range(1)]))
    assert isinstance(view.arrays["x"], ByDevice)
    shards = data.shards(4)
    for device, part in enumerate(view.arrays["x"].tree.addressable_shards):
        of = slice(device * 4 // devices, (device + 1) * 4 // devices)
        rows = np.concatenate(
            [
                shards.member_N[start : start + size]
                for start, size in zip(shards.start_S[of], shards.size_S[of])
            ]
        )
        np.testing.assert_array_equal(part.data, data.train["x"][rows])


def test_workers_that_draw_from_everything_find_it_on_every_device():
    data = dataset()
    view = next(
        data.views(jax.random.key(0), 4, sharded(subnet_mesh(2)).replicated_sharding, [range(1)])
    )
    assert all(
        part.data.shape == data.train["x"].shape for part in view.arrays["x"].addressable_shards
    )


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(4, 1), (4, 2), (4, 4), (6, 3)]),
    st.sampled_from(sorted(SPLITS)),
    st.integers(30, 60),
)
def test_a_devices_part_holds_what_its_workers_draw(sizes, split, examples):
    num_workers, devices = sizes
    shards = SPLITS[split](np.arange(examples) % 5, num_workers)
    parts, local = split_by_device(shards, devices)
    for worker in range(num_workers):
        part = parts[worker * devices // num_workers]
        own = part[local.start_S[worker] : local.start_S[worker] + local.size_S[worker]]
        begin = shards.start_S[worker]
        np.testing.assert_array_equal(own, shards.member_N[begin : begin + shards.size_S[worker]])


def write_npz(folder, save, x, y):
    save(folder / "data.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    return "npz", folder / "data.npz"


def write_idx(folder, open_file, ending, x, y):
    for part, rows in (("train", slice(None)), ("t10k", slice(8))):
        for kind, array in (("images-idx3", x[rows]), ("labels-idx1", y[rows].astype(np.uint8))):
            with open_file(folder / f"{part}-{kind}-ubyte{ending}", "wb") as file:
                file.write(
                    bytes([0, 0, 8, array.ndim])
                    + np.array(array.shape, ">u4").tobytes()
                    + array.tobytes()
                )
    return "idx", folder


def write_cifar(folder, x, y):
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir()

    def records(part):
        return np.concatenate(
            [y[part, None].astype(np.uint8), np.resize(x[part], (len(part), 3072))], axis=1
        )

    for name, part in zip(
        [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
        np.array_split(np.arange(400), 6),
    ):
        (folder / name).write_bytes(records(part).tobytes())
    return "cifar10", folder


FILES = {
    "npz": functools.partial(write_npz, save=np.savez),
    "npz, packed": functools.partial(write_npz, save=np.savez_compressed),
    "npz, float64": lambda folder, x, y: write_npz(folder, np.savez, x / 7, y),
    "npz, by columns": lambda folder, x, y: write_npz(folder, np.savez, np.asfortranarray(x), y),
    "idx": functools.partial(write_idx, open_file=open, ending=""),
    "idx, packed": functools.partial(write_idx, open_file=gzip.open, ending=".gz"),
    "cifar": write_cifar,
}


@pytest.mark.parametrize("kind", FILES)
def test_a_process_keeps_the_rows_of_its_own_workers_and_finds_what_one_that_reads_everything_does(
    tmp_path, kind
):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (400, 6, 5), dtype=np.uint8), np.arange(400) % 10
    name, path = FILES[kind](tmp_path, x=x, y=y)
    whole, stored = (
        load(name, str(path), split="disjoint", stored=by_rows) for by_rows in (False, True)
    )
    assert isinstance(whole.train["x"], np.ndarray) and isinstance(stored.train["x"], RowStore)
    assert (stored.fingerprint, stored.spec) == (whole.fingerprint, whole.spec)
    assert (whole.mean, whole.std) == (
        whole.train["x"].mean(dtype=np.float64),
        whole.train["x"].std(dtype=np.float64),
    )
    read = []
    counted = stored.train["x"]
    counted.__class__ = type(
        "Counted",
        (RowStore,),
        {"__getitem__": lambda self, at: read.append(at) or RowStore.__getitem__(self, at)},
    )
    mesh = sharded(subnet_mesh(4)).replicated_sharding
    views = [next(data.views(jax.random.key(0), 4, mesh, [range(1)])) for data in (whole, stored)]
    jax.tree.map(np.testing.assert_array_equal, *(view.arrays for view in views))
    assert [len(at) for at in read] == [-(-len(whole.train["x"]) // 4)] * 4, (
        "what each device's worker draws, and nothing else"
    )
    calibration = [data.calibration_batch(20, mesh) for data in (whole, stored)]
    jax.tree.map(np.testing.assert_array_equal, *calibration)
    np.testing.assert_array_equal(stored.on_device("train", mesh)["x"], whole.train["x"])
    for part in ("validation", "test"):
        jax.tree.map(
            np.testing.assert_array_equal, dict(getattr(whole, part)), dict(getattr(stored, part))
        )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.sampled_from([np.uint8, np.float32]),
    st.integers(0, 3),
)
def test_means_a_block_at_a_time_are_numpys_to_the_last_bit(rows, columns, dtype, seed):
    x = np.random.default_rng(seed).uniform(0, 255, (rows * 1000, columns)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ist_jax.data.rows._LEAF", 8192)
        assert mean_and_std(x) == (x.mean(dtype=np.float64), x.std(dtype=np.float64))


def test_a_full_tmpdir_is_named_with_the_bytes_it_does_not_take_and_the_remedy(
    tmp_path, monkeypatch
):
    """No file of this process may be longer than 4 KB, and the packed inputs have 12,000 bytes."""
    x, y = np.arange(12000, dtype=np.uint8).reshape(400, 6, 5), np.arange(400) % 10
    _, path = write_npz(tmp_path, np.savez_compressed, x, y)
    (tmp_path / "small").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, allowed[1]))
    try:
        with pytest.raises(
            OSError,
            match=r"TMPDIR \(.*small\), which has no room for their 12,000 bytes .*: set TMPDIR to",
        ):
            load("npz", str(path), stored=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert not list((tmp_path / "small").iterdir())


def test_packed_files_that_are_damaged_are_named_when_their_rows_are_read(tmp_path):
    x, y = np.arange(12000, dtype=np.uint8).reshape(400, 6, 5), np.arange(400) % 10
    _, path = write_npz(tmp_path, np.savez_compressed, x, y)
    content = bytearray(path.read_bytes())
    content[150] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="data.npz: cannot be read as .npz"):
        load("npz", str(path), stored=True)
