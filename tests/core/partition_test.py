"""Partitions: cover, disjointness, fairness, errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import also_slowly

from ist_jax.core import overlap
from ist_jax.core.partition import PARTITIONS, home_size, partition

SHAPES = [(8, 1), (8, 2), (16, 4), (17, 4), (23, 8), (9, 8), (64, 8)]


NAMES = [*sorted(PARTITIONS), "holder-sharded"]


def make(name, size, num_subnets):
    """A partition of one group 'g'; 'holder-sharded' is 'balanced' with the holders as owners."""
    if name == "holder-sharded":
        return partition("balanced", {"g": size}, num_subnets, holder_sharded=("g",))
    return partition(name, {"g": size}, num_subnets)


def draws(parts, count, seed=0):
    """`count` rounds, each from the one before: [count, S, M] of group 'g'."""

    def step(current, key):
        new = parts.sample(key, current)
        return new, new["g"]

    @jax.jit  # operation by operation, each would be compiled for every shape
    def drawn(key, keys):
        return jax.lax.scan(step, parts.sample(key, parts.first()), keys)[1]

    keys = jax.random.split(jax.random.key(seed + 1), count)
    return np.asarray(drawn(jax.random.key(seed), keys))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size,num_subnets", SHAPES)
def test_law_2_groups_are_disjoint_and_cover_all_units(name, size, num_subnets):
    parts = make(name, size, num_subnets)
    for index_SxM in (np.asarray(parts.first()["g"]), *draws(parts, 20)):
        assert index_SxM.dtype == np.int32 and index_SxM.shape == (
            num_subnets,
            home_size(size, num_subnets),
        )
        held = index_SxM[index_SxM < size]
        assert sorted(held) == list(range(size))
        counts = (index_SxM < size).sum(axis=1)
        assert counts.max() - counts.min() <= 1, "counts are as equal as possible"
        assert (np.diff(index_SxM, axis=1) >= 0).all(), "rows are sorted"
        assert index_SxM.max() <= size


@pytest.mark.parametrize("name", ["balanced", "uniform", "blocks", "rolling", "holder-sharded"])
@pytest.mark.parametrize("size,num_subnets", also_slowly([(17, 4)], [(16, 4), (17, 4), (9, 8)]))
def test_law_2_every_unit_is_drawn_by_every_subnetwork_at_the_expected_rate(
    name, size, num_subnets
):
    parts = make(name, size, num_subnets)
    count = size * 200
    drawn = draws(parts, count)
    held_SxN = np.stack([(drawn == unit).any(axis=2).mean(axis=0) for unit in range(size)], axis=1)
    if name == "rolling":  # the number of a subnetwork's units never changes
        expected = np.repeat(
            (np.asarray(parts.first()["g"]) < size).sum(1, keepdims=True) / size, size, axis=1
        )
    else:
        expected = np.full((num_subnets, size), 1 / num_subnets)
    sigma = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(held_SxN - expected) < 6 * sigma + 1e-9).all()


def test_law_2_two_units_meet_as_often_as_in_uniform_partitions():
    meet = {}
    for name in ("balanced", "holder-sharded", "uniform"):
        drawn = draws(make(name, 32, 4), 4000)
        owner = np.argmax(
            [(drawn[..., None] == np.arange(32)).any(2)[:, s] for s in range(4)], axis=0
        )
        pairs = (owner[:, :, None] == owner[:, None, :]).mean(0)
        meet[name], deviation = (
            pairs[~np.eye(32, dtype=bool)].mean(),
            pairs[~np.eye(32, dtype=bool)].std(),
        )
        noise = np.sqrt(7 / 31 * 24 / 31 / 4000)
        # Homes always assign equal shares, so units of one home meet less. Holders change.
        assert (deviation > 3 * noise) == (name == "balanced")
    assert meet["uniform"] == pytest.approx(7 / 31, abs=0.002)
    assert meet["balanced"] == pytest.approx(7 / 31, abs=0.002)
    assert meet["holder-sharded"] == pytest.approx(7 / 31, abs=0.002)


@pytest.mark.parametrize("size,num_subnets", [(64, 4), (17, 4), (23, 8), (128, 8)])
def test_balanced_bounds_what_a_home_and_a_subnetwork_share(size, num_subnets):
    parts = partition("balanced", {"g": size}, num_subnets)
    home = home_size(size, num_subnets)
    for index_SxM in (np.asarray(parts.first()["g"]), *draws(parts, 50)):
        for row in index_SxM:
            shared = np.bincount(row[row < size] // home, minlength=num_subnets)
            assert shared.max() <= parts.block_units("g") == -(-home // num_subnets)


@pytest.mark.parametrize("size,num_subnets", [(64, 4), (17, 4), (23, 8), (9, 8)])
def test_a_holder_sharded_group_bounds_what_two_holders_exchange(size, num_subnets):
    parts = make("holder-sharded", size, num_subnets)
    drawn = draws(parts, 50)
    for before, after in itertools.pairwise(drawn):
        for giver in before:
            for taker in after:
                shared = set(giver[giver < size]) & set(taker[taker < size])
                assert (
                    len(shared)
                    <= parts.block_units("g")
                    == -(-home_size(size, num_subnets) // num_subnets)
                )


@pytest.mark.parametrize("name", ["blocks", "balanced"])
@pytest.mark.parametrize(
    "size,num_subnets,depth",
    also_slowly([(22, 4, 6)], [(10, 8, 4), (22, 8, 5), (22, 4, 6), (9, 8, 6), (8, 4, 8)]),
)
def test_a_minimum_depth_overlaps_and_covers(name, size, num_subnets, depth):
    """Also at the larger share: with 22 blocks, S = 4 and depth 6, all have 6, not 6, 6, 5, 5."""
    parts = partition(name, {"g": size}, num_subnets, min_units=depth)
    assert not parts.disjoint and not parts.padded_groups and parts.slots == {"g": depth}
    home, drawn = home_size(size, num_subnets), draws(parts, 100)
    for index_SxM in (np.asarray(parts.first()["g"]), *drawn):
        assert set(index_SxM.flat) == set(range(size)), "every unit has a holder"
        for row in index_SxM:
            assert len(set(row)) == depth and (np.diff(row) > 0).all(), (
                "as many different units each, in order"
            )
            assert np.bincount(row // home).max() <= parts.block_units("g"), (
                "no more units of a home than a mesh sends"
            )
    assert len(np.unique(drawn.reshape(100, -1), axis=0)) == (1 if depth == size else 100)


@pytest.mark.parametrize("name", ["blocks", "balanced"])
@pytest.mark.parametrize(
    "size,num_subnets,depth",
    also_slowly([(22, 8, 5)], [(24, 8, 5), (22, 8, 5), (22, 4, 6), (9, 8, 5), (10, 8, 4)]),
)
def test_with_a_minimum_depth_every_unit_is_held_as_often_by_everybody(
    name, size, num_subnets, depth
):
    """Also where S does not divide the units, so that the last home has fewer."""
    drawn, rate = (
        draws(partition(name, {"g": size}, num_subnets, min_units=depth), 4000),
        depth / size,
    )
    held_SxN = np.stack([(drawn == unit).any(axis=2).mean(axis=0) for unit in range(size)], axis=1)
    assert (np.abs(held_SxN - rate) < 5 * np.sqrt(rate * (1 - rate) / 4000)).all()
    # an upper bound: subnetworks are not independent
    deviation = np.sqrt(rate * (1 - rate) / 4000 / num_subnets)
    assert (np.abs(held_SxN.mean(axis=0) - rate) < 5 * deviation).all()


@pytest.mark.parametrize(
    "size,num_subnets,depth",
    also_slowly(
        [(22, 8, 5)], [(24, 8, 5), (22, 8, 5), (22, 4, 6), (9, 8, 5), (32, 4, 10), (8, 4, 8)]
    ),
)
def test_balanced_with_a_minimum_depth_assigns_equal_shares(size, num_subnets, depth):
    """Units have equally many holders to within one; shares of a home are at most rounded up."""
    parts = partition("balanced", {"g": size}, num_subnets, min_units=depth)
    home, drawn = home_size(size, num_subnets), draws(parts, 200)
    assert parts.block_units("g") == -(-home * depth // size)
    holders_RxN = np.stack([(drawn == unit).sum(axis=(1, 2)) for unit in range(size)], axis=1)
    assert set(holders_RxN.flat) <= {num_subnets * depth // size, -(-num_subnets * depth // size)}
    shares = np.stack([(drawn // home == h).sum(axis=2) for h in range(num_subnets)])
    assert shares.max() <= parts.block_units("g")


def test_round_robin_assigns_copies_as_in_the_worked_example_of_the_overlap():
    unit_C = jnp.array([3, 3, 2, 2, 0, 0, 1, 1, 5, 5, 4, 4])
    order_HxS = jnp.array([[0, 2, 1], [2, 0, 1], [1, 0, 2]])
    holder_C = overlap.assign_copies(unit_C // 2, order_HxS)
    units = [sorted(unit_C[holder_C == s].tolist()) for s in range(3)]
    assert units == [[0, 1, 3, 5], [1, 2, 4, 5], [0, 2, 3, 4]]


def test_all_pairs_of_subnetworks_share_equally_many_units_with_a_minimum_depth():
    """With 20 blocks, S = 8 and depth 5, every block has two holders. No subnetworks are equal."""
    drawn = draws(partition("balanced", {"g": 20}, 8, min_units=5), 4000)
    held = (drawn[..., None] == np.arange(20)).any(axis=2).astype(int)
    together_SxS = np.einsum("rsn,rtn->st", held, held) / 4000
    others = together_SxS[~np.eye(8, dtype=bool)]
    assert others == pytest.approx(np.full(56, 20 / 28), abs=0.08), (
        "20 pairs of holders, over 28 pairs of subnetworks"
    )


def test_a_minimum_depth_below_all_shares_changes_nothing():
    plain, deep = (partition("blocks", {"g": 22}, 4, min_units=depth) for depth in (0, 5))
    assert deep.disjoint and deep.padded_groups == {"g": 22} and deep.slots == plain.slots
    np.testing.assert_array_equal(draws(plain, 3), draws(deep, 3))


def test_the_larger_shares_of_blocks_rotate():
    drawn = draws(partition("blocks", {"g": 22}, 4), 4)
    counts = (drawn < 22).sum(axis=2)
    assert (counts.sum(axis=0) == 22).all(), (
        "over S rounds every subnetwork has held as many blocks"
    )


def test_one_subnetwork_holds_everything_in_order():
    for name in ("balanced", "uniform", "blocks", "fixed"):
        parts = partition(name, {"g": 7}, 1)
        np.testing.assert_array_equal(
            parts.sample(jax.random.key(0), parts.first())["g"], jnp.arange(7)[None]
        )


def test_groups_are_permuted_independently():
    parts = partition("balanced", {"a": 64, "b": 64}, 4)
    indices = parts.sample(jax.random.key(0), parts.first())
    assert (np.asarray(indices["a"]) != np.asarray(indices["b"])).any()


def test_golden_partition():
    parts = partition("balanced", {"g": 10}, 4)
    indices = parts.sample(jax.random.key(42), parts.first())["g"]
    message = (
        "the partition of a key has changed: every recorded run will repeat differently; "
        "say so in CHANGELOG.md"
    )
    assert np.asarray(indices).tolist() == GOLDEN, message


GOLDEN = [[0, 5, 9], [1, 7, 10], [2, 3, 8], [4, 6, 10]]


@pytest.mark.parametrize(
    "arguments,says",
    [
        (("balanced", {"g": 3}, 4), "group 'g' has 3 units for num_subnets=4"),
        (("even", {"g": 8}, 4), "partition is one of .* not 'even'"),
        (("balanced", {"g": 8}, 0), "num_subnets is at least 1, not 0"),
    ],
)
def test_errors_name_group_and_sizes(arguments, says):
    with pytest.raises(ValueError, match=says):
        partition(*arguments)
    with pytest.raises(ValueError, match="min_units=9 is more than the 8 units of group 'g'"):
        partition("blocks", {"g": 8}, 4, min_units=9)
    with pytest.raises(ValueError, match="'blocks'\\), not 'uniform'"):
        partition("uniform", {"g": 8}, 4, min_units=2)
    with pytest.raises(ValueError, match="a holder-sharded unit has one holder, and min_units=3"):
        partition("balanced", {"g": 8}, 4, min_units=3, holder_sharded=("g",))
    with pytest.raises(ValueError, match=r"holder_sharded=\['g'\] .* not 'uniform'"):
        partition("uniform", {"g": 8}, 4, holder_sharded=("g",))
    with pytest.raises(ValueError, match=r"holder_sharded names groups of \['g'\], not \['h'\]"):
        partition("balanced", {"g": 8}, 4, holder_sharded=("h",))
