"""Errors of labelling, and means computed by hand."""

import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from ist_jax.core.subnet import extract, label_axes, merge
from ist_jax.core.trees import check_all_match, leaf_names, map_with_names, tree_bytes, tree_size

PARAMS = {"layer": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}


@pytest.mark.parametrize(
    "rules,sizes,says",
    [
        ([("layer/kernel", (None, "h"))], {"h": 4}, "none matches 'layer/bias'"),
        (
            [(".*kernel", (None, "h")), (".*", None)],
            {"h": 5},
            "axis 1 of 'layer/kernel' has length 4, group 'h' has 5 units",
        ),
        (
            [(".*kernel", ("h",)), (".*", None)],
            {"h": 4},
            r"a rule names every axis: 'layer/kernel' has shape \(3, 4\)",
        ),
        ([(".*kernel", (None, "g")), (".*", None)], {"h": 4}, "names group 'g', which has no size"),
        ([(".*", None)], {"h": 4}, r"every group labels an axis of some leaf; none has \['h'\]"),
    ],
)
def test_labels_that_do_not_fit_are_errors_that_name_leaf_axis_and_sizes(rules, sizes, says):
    with pytest.raises(ValueError, match=says):
        label_axes(PARAMS, rules, sizes)


def test_the_first_matching_rule_wins_and_must_match_the_whole_name():
    labels = label_axes(
        PARAMS,
        [("layer/kernel", (None, "h")), ("layer/k.*", ("h", None)), ("layer/bias", None)],
        {"h": 4},
    )
    assert labels["layer"]["kernel"].axes == (None, "h")


@pytest.mark.parametrize(
    "rules,says",
    [
        # no rule is left for the leaf
        ([("kernel", (None, "h")), ("bias", None)], "a part of 'layer/kernel': write '.*/kernel'"),
        # a catch-all rule takes the leaf, and the group has none
        ([("kernel", (None, "h")), (".*", None)], "a part of 'layer/kernel': write '.*/kernel'"),
        ([("layer", ("h",)), (".*", None)], "a part of 'layer/bias': write 'layer/.*'"),
        ([("kern", (None, "h")), (".*", None)], "a part of 'layer/kernel': write '.*kern.*'"),
    ],
)
def test_a_rule_that_matches_a_part_of_a_name_is_told_the_rule_that_matches_it(rules, says):
    """Rules match full names, and nobody was told: 'hidden/kernel' is none inside a module."""
    with pytest.raises(ValueError, match="a rule matches the full name of a parameter") as error:
        label_axes(PARAMS, rules, {"h": 4})
    assert says in str(error.value)


def test_a_leaf_without_a_rule_is_not_told_to_take_that_of_another():
    """'w' matches 'w', so that 'w2' needs a rule of its own, not 'w.*' for both."""
    params = {"w": jnp.ones(4), "w2": jnp.ones(4)}
    with pytest.raises(ValueError, match="none matches 'w2': add one"):
        label_axes(params, [("w", ("h",))], {"h": 4})


def test_the_rule_that_is_told_matches():
    """Also where the pattern cannot be extended: then it is the name itself."""
    for pattern in ("kernel", "layer", "yer/ker", "a|kernel", "^layer", "kernel$"):
        with pytest.raises(ValueError, match="matches the full name") as error:
            check_all_match([(pattern, None)], {"layer": {"kernel": jnp.ones(2)}})
        (better,) = re.findall("write '(.*)'", str(error.value))
        assert re.fullmatch(better, "layer/kernel"), better


def test_a_rule_that_matches_nothing_is_named_with_the_nearest_leaf():
    # the second rule matches, and is only too late
    check_all_match([("layer/kernel", None), ("layer/k.*", None), (".*", None)], PARAMS)
    says = "and 'layer/kernal' matches none .nearest is 'layer/kernel'.: mend the rule"
    with pytest.raises(ValueError, match=says):
        check_all_match([("layer/kernal", (None, "h")), (".*", None)], PARAMS)


def test_several_holders_are_averaged_by_hand():
    """Unit 1 has two holders, unit 3 none, unit 0 a lost one."""
    params = {"v": jnp.arange(4.0)}
    labels = label_axes(params, [("v", ("g",))], {"g": 4})
    subs = {"v": jnp.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])}
    indices = {"g": jnp.array([[1, 2], [1, 4], [0, 4]])}  # 4 is padding
    merged = merge(params, subs, labels, indices, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(merged["v"], [0.0, (10.0 + 30.0) / 2, 20.0, 3.0])


def test_minus_zero_and_nan_of_a_lost_subnetwork():
    labels = label_axes(
        {"v": jnp.zeros(2), "s": jnp.zeros(1)}, [("v", ("g",)), ("s", None)], {"g": 2}
    )
    params = {"v": jnp.ones(2), "s": jnp.ones(1)}
    subs = {"v": jnp.array([[-0.0], [jnp.nan]]), "s": jnp.array([[4.0], [jnp.nan]])}
    merged = merge(params, subs, labels, {"g": jnp.array([[0], [1]])}, jnp.array([1.0, 0.0]))
    assert np.signbit(merged["v"][0]) and merged["v"][1] == 1.0 and merged["s"][0] == 4.0


@pytest.mark.parametrize("disjoint", [False, True])
def test_half_a_participation_moves_an_entry_half_way(disjoint):
    params = {"v": jnp.array([0.0, 1.0, 2.0]), "s": jnp.zeros(1)}
    labels = label_axes(params, [("v", ("g",)), ("s", None)], {"g": 3})
    subs = {"v": jnp.array([[10.0], [jnp.nan], [6.0]]), "s": jnp.array([[4.0], [jnp.nan], [8.0]])}
    indices, weight_S = {"g": jnp.array([[0], [1], [2]])}, jnp.array([0.5, 0.0, 1.0])
    merged = merge(params, subs, labels, indices, weight_S, disjoint=disjoint)
    np.testing.assert_array_equal(merged["v"], [5.0, 1.0, 6.0])
    np.testing.assert_array_equal(merged["s"], [(2.0 + 8.0) / 2])


def test_contributions_of_different_weights_are_averaged():
    params = {"v": jnp.array([1.0])}
    labels = label_axes(params, [("v", ("g",))], {"g": 1})
    subs, indices = {"v": jnp.array([[5.0], [9.0]])}, {"g": jnp.zeros((2, 1), jnp.int32)}
    merged = merge(params, subs, labels, indices, jnp.array([0.5, 1.0]))
    np.testing.assert_array_equal(merged["v"], [(3.0 + 9.0) / 2])


def test_padding_extracts_zeros():
    labels = label_axes(PARAMS, [("layer/kernel", (None, "h")), ("layer/bias", ("h",))], {"h": 4})
    sub = extract(PARAMS, labels, {"h": jnp.array([2, 4])})
    np.testing.assert_array_equal(sub["layer"]["kernel"], [[1, 0]] * 3)
    np.testing.assert_array_equal(sub["layer"]["bias"], [1, 0])


def test_names_and_sizes_of_trees():
    assert leaf_names(PARAMS) == ["layer/bias", "layer/kernel"]
    assert map_with_names(lambda name, leaf: (name, leaf.shape), PARAMS)["layer"]["bias"] == (
        "layer/bias",
        (4,),
    )
    assert tree_size(PARAMS) == 16 and tree_bytes(PARAMS) == 64
    chex.assert_trees_all_equal(
        map_with_names(lambda _, a, b: a - b, PARAMS, PARAMS),
        {"layer": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}},
    )
