"""The validation split: random, the same in every call, and a training example for every class."""

import numpy as np
import pytest

from ist_jax.data import Raw, make_dataset
from ist_jax.data.held_out import held_out, random_share
from ist_jax.data.splits import shared

SIZE, FRACTION = 200, 0.2
GROUP = np.random.default_rng(0).integers(0, 25, SIZE)


def plain(group_N):
    """The choice without a look at classes, as earlier versions made it."""
    rng = np.random.default_rng(0)
    if group_N is None:
        return np.isin(np.arange(SIZE), rng.permutation(SIZE)[: round(FRACTION * SIZE)])
    order = rng.permutation(group_N.max() + 1)
    before = np.concatenate([[0], np.cumsum(np.bincount(group_N)[order])[:-1]])
    return np.isin(group_N, order[before < round(FRACTION * SIZE)])


@pytest.mark.parametrize("group_N", [None, GROUP], ids=["examples", "groups"])
def test_a_choice_that_takes_all_of_no_class_stays_as_it_is(group_N):
    y_N = np.arange(SIZE) % 4
    np.testing.assert_array_equal(held_out(y_N, group_N, FRACTION), plain(group_N))
    np.testing.assert_array_equal(random_share(SIZE, FRACTION), plain(None))


def test_a_rare_class_keeps_an_example_in_training():
    """The random choice takes all of classes 1 and 2; 3 has one example."""
    taken, y_N = np.flatnonzero(plain(None)), np.zeros(SIZE, int)
    y_N[taken[:3]], y_N[taken[5]], y_N[taken[7]] = 1, 2, 3
    chosen_N = held_out(y_N, None, FRACTION)
    assert set(y_N[~chosen_N]) == {0, 1, 2, 3}
    assert chosen_N.sum() == len(taken), "another example is held out in its place"
    assert (chosen_N != plain(None)).sum() == 6 and (y_N[chosen_N] == 1).sum() == 2
    np.testing.assert_array_equal(chosen_N, held_out(y_N, None, FRACTION))


def test_groups_change_sides_as_a_whole():
    y_N = np.where(plain(GROUP), 1, 0)
    chosen_N = held_out(y_N, GROUP, FRACTION)
    assert set(y_N[~chosen_N]) == {0, 1}
    assert all(len(set(chosen_N[group == GROUP])) == 1 for group in range(25))
    assert abs(chosen_N.sum() - plain(GROUP).sum()) < 5, "a group of about that size replaces it"


def test_a_class_of_the_only_group_that_is_held_out_stays_there():
    """Two groups, one class each: whichever is held out, training lacks a class. It is said."""
    group_N = np.arange(40) // 20
    raw = Raw(np.zeros((40, 2, 2)), group_N, np.zeros((8, 2, 2)), np.zeros(8, int), group_N)
    data = make_dataset(raw, "x", source="here", validation_fraction=0.1, shards=shared)
    assert len(set(data.train["y"])) == 1 and len(set(data.validation["y"])) == 1
    assert any("20 of 20 validation examples are: a model cannot" in one for one in data.warnings)


def test_every_class_of_a_data_set_is_trained():
    x, y = np.random.default_rng(0).normal(size=(200, 3)), np.zeros(200, int)
    y[plain(None)] = 1
    raw = Raw(x, y, x, y)
    data = make_dataset(raw, "x", source="here", validation_fraction=FRACTION, shards=shared)
    assert set(data.train["y"]) == {0, 1} and len(data.validation["y"]) == 40
    assert not data.warnings
