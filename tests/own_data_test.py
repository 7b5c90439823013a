"""Workers with shards of their own: on a mesh, every device has its workers' examples and no others."""

import functools

import jax
import numpy as np
import pytest
from cases import ALGORITHMS, dataset, rounds
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax.data.splits import shards_of
from ist_jax.order import ByDevice, by_device
from ist_jax.placement import looped, sharded, subnet_mesh

SPLITS = {
    "disjoint": functools.partial(shards_of, "disjoint", 0, 1.0),
    "dirichlet": functools.partial(shards_of, "dirichlet", 0, 1.0),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["ist", "data-parallel", "diloco"])
def test_training_is_that_of_one_device_that_has_everything(name, split):
    data = dataset(shards=SPLITS[split])
    find = lambda placement: ALGORITHMS[name](4, placement)
    alone = find(looped())
    expected = alone.params(rounds(alone, 2, data=data)[0])
    for devices in (2, 4):
        spread = find(sharded(subnet_mesh(devices), looped()))
        found = spread.params(rounds(spread, 2, data=data)[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("devices", [2, 4])
def test_a_device_has_its_workers_examples_alone(devices):
    data, mesh = dataset(shards=SPLITS["disjoint"]), sharded(subnet_mesh(devices))
    view = data.view(0, jax.random.key(0), 4, mesh.replicated)
    assert isinstance(view.arrays["x"], ByDevice)
    shards = data.shards(4)
    for device, part in enumerate(view.arrays["x"].tree.addressable_shards):
        of = slice(device * 4 // devices, (device + 1) * 4 // devices)
        rows = np.concatenate(
            [shards.member_N[start : start + size] for start, size in zip(shards.start_S[of], shards.size_S[of])]
        )
        np.testing.assert_array_equal(part.data, data.train["x"][rows])


def test_workers_that_draw_from_everything_find_it_on_every_device():
    data = dataset()
    view = data.view(0, jax.random.key(0), 4, sharded(subnet_mesh(2)).replicated)
    assert all(part.data.shape == data.train["x"].shape for part in view.arrays["x"].addressable_shards)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(4, 1), (4, 2), (4, 4), (6, 3)]), st.sampled_from(sorted(SPLITS)), st.integers(30, 60))
def test_a_devices_part_holds_what_its_workers_draw(sizes, split, examples):
    num_workers, devices = sizes
    shards = SPLITS[split](np.arange(examples) % 5, num_workers)
    parts, local = by_device(shards, devices)
    for worker in range(num_workers):
        part = parts[worker * devices // num_workers]
        own = part[local.start_S[worker] : local.start_S[worker] + local.size_S[worker]]
        begin = shards.start_S[worker]
        np.testing.assert_array_equal(own, shards.member_N[begin : begin + shards.size_S[worker]])
