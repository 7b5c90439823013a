"""Which groups are home-sharded: the vertex cover of least bytes, against trying all covers."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from cases import custom
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax.core.partition import partition
from ist_jax.core.subnet import Label, label_axes
from ist_jax.decompositions import mlp
from ist_jax.exchange import choose_holder_sharded, choose_home_sharded
from ist_jax.models import MLP


def chosen(*hidden, features=20, classes=10, **options):
    split = mlp(
        MLP(hidden, classes),
        jax.ShapeDtypeStruct((1, features), jnp.float32),
        num_subnets=2,
        **options,
    )
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    return choose_home_sharded(label_axes(shapes, split.rules, split.partition.sizes), shapes)


def test_home_sharded_groups_of_mlps_by_hand():
    assert chosen(64) == frozenset(), "no leaf has two groups"
    assert chosen(64, 64) == {"hidden_1"}, "the output kernel is smaller than the input kernel"
    assert chosen(64, 64, features=4) == {"hidden_0"}, "here it is larger"
    assert chosen(64, 64, 64) == {"hidden_1"}, "only the leaves of its norm have one group"
    assert chosen(64, 64, 64, 64) == {"hidden_1", "hidden_2"}
    assert chosen(64, split_input=True) == {"input"}, "the input has no leaf with one group"


def test_an_outer_optimizers_state_makes_holder_sharding_cost_more():
    shapes = {"a": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    labels = {"a": Label(("g", None))}
    state = lambda copies: ([labels] * copies, [shapes] * copies)
    assert choose_home_sharded(labels, shapes) == frozenset()
    assert choose_home_sharded(labels, shapes, state(1)) == frozenset(), "both cost the same"
    assert choose_home_sharded(labels, shapes, state(2)) == {"g"}


def test_only_balanced_partitions_have_holder_sharded_groups():
    split = custom(4)
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    labels = label_axes(shapes, split.rules, split.partition.sizes)
    assert choose_holder_sharded(split.partition, labels, shapes).holder_sharded == {"unit"}
    for name in ("uniform", "blocks", "rolling", "fixed"):
        parts = partition(name, split.partition.sizes, 4)
        assert choose_holder_sharded(parts, labels, shapes).holder_sharded == frozenset()


def test_a_group_whose_units_have_several_holders_covers_its_leaves():
    """With 2 units at least and S = 4, 'a' of 4 units overlaps and 'b' of 40 does not.

    A leaf over both is covered by 'a', so 'b' may be holder-sharded.
    """
    parts = partition("balanced", {"a": 4, "b": 40}, 4, min_units=2)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 40), (4, 99), (40,))]
    labels = [Label(("a", "b")), Label(("a", None)), Label(("b",))]
    assert choose_home_sharded(labels, shapes) == {"b"}, "the cheaper one, without overlap"
    assert parts.overlapping == {"a"} and choose_holder_sharded(
        parts, labels, shapes
    ).holder_sharded == {"b"}
    assert choose_home_sharded(labels[1:], shapes[1:], overlapping=parts.overlapping) == {"a"}


@st.composite
def trees(draw):
    """Leaves with one or two of five groups."""
    names = "abcde"
    edges = draw(
        st.lists(
            st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True),
            min_size=1,
            max_size=6,
        )
    )
    alone = draw(st.lists(st.tuples(st.sampled_from(names), st.integers(1, 50)), max_size=8))
    leaves = [(Label(tuple(edge)), (2, 2)) for edge in edges] + [
        (Label((g, None)), (2, n)) for g, n in alone
    ]
    return [label for label, _ in leaves], [
        jax.ShapeDtypeStruct(shape, jnp.float32) for _, shape in leaves
    ]


@settings(max_examples=60, deadline=None)
@given(trees())
def test_the_cover_is_the_cheapest(tree):
    labels, shapes = tree
    groups = sorted({group for label in labels for _, group in label.groups})

    def cost(cover):
        if any(
            len(label.groups) == 2 and not cover & {g for _, g in label.groups} for label in labels
        ):
            return None
        return sum(
            s.size
            for label, s in zip(labels, shapes)
            if len(label.groups) == 1 and label.groups[0][1] in cover
        )

    every = [set(c) for n in range(len(groups) + 1) for c in itertools.combinations(groups, n)]
    best = min(num_bytes for cover in every if (num_bytes := cost(cover)) is not None)
    assert cost(set(choose_home_sharded(labels, shapes))) == best


@pytest.mark.parametrize("copies", [1, 3])
def test_the_choice_does_not_depend_on_carried_state(copies):
    split = custom(4)
    shapes = jax.eval_shape(split.init, jax.random.key(0))
    labels = label_axes(shapes, split.rules, split.partition.sizes)
    assert choose_home_sharded([labels] * copies, [shapes] * copies) == {"head"}
