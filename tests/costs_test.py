"""Bytes by arithmetic, by hand, and as compiled."""

import jax
import jax.numpy as jnp
import pytest
from cases import DECOMPOSITIONS, own

from ist_jax import costs
from ist_jax.decompositions import mlp, undivided
from ist_jax.exchange import over_mesh, settled
from ist_jax.hlo import bytes_sent, collectives
from ist_jax.models import MLP
from ist_jax.placement import subnet_mesh
from ist_jax.subnet import label_axes


def labelled(decomposition):
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    return label_axes(shapes, decomposition.rules, decomposition.partition.sizes), shapes, decomposition.partition


def test_the_papers_speech_network_by_hand():
    """4096-4096-35 with BatchNorm: 1/S of both kernels and of scale and bias, S = 8."""
    decomposition = mlp(MLP((4096,), 35), jax.ShapeDtypeStruct((1, 4096), jnp.float32), num_subnets=8)
    labels, shapes, parts = labelled(decomposition)
    entries = 4096 * 4096 + 4096 * 35 + 2 * 4096
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * entries // 8
    once = 7 / 8 * 4 * entries / 8
    assert once == pytest.approx(7.4e6, rel=0.01)
    home = costs.leaf_costs(labels, shapes, parts)
    assert {leaf.way for leaf in home} == {"home"} and sum(leaf.sent for leaf in home) == 2 * once
    travelling = costs.leaf_costs(labels, shapes, settled(parts, labels, shapes))
    assert {leaf.way for leaf in travelling} == {"travels"}, "no leaf has two groups, so none needs a home"
    assert sum(leaf.sent for leaf in travelling) == sum(leaf.lower_bound for leaf in travelling) == once
    assert sum(leaf.all_reduce for leaf in travelling) == pytest.approx(118.5e6, rel=0.01)
    assert costs.all_reduce_bytes(4 * entries, 8) == pytest.approx(118.5e6, rel=0.01)


def test_hidden_kernels_are_held_to_one_part_in_s_squared():
    decomposition = mlp(MLP((64, 64), 10), jax.ShapeDtypeStruct((1, 20), jnp.float32), num_subnets=4)
    labels, shapes, parts = labelled(decomposition)
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * (20 * 16 + 16 * 16 + 16 * 10 + 4 * 16)


def test_without_groups_it_is_the_ring_all_reduce():
    decomposition = undivided(DECOMPOSITIONS["mlp"](4), 4)
    labels, shapes, parts = labelled(decomposition)
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes))
    for leaf in (found := costs.leaf_costs(labels, shapes, parts)):
        assert leaf.way == "shared" and leaf.sent == leaf.lower_bound == leaf.all_reduce
    assert sum(leaf.sent for leaf in found) == 2 * 3 / 4 * whole


@pytest.mark.parametrize("make", [DECOMPOSITIONS["mlp"], DECOMPOSITIONS["mlp-uneven"], own], ids=["mlp", "uneven", "own-model"])
@pytest.mark.parametrize("rests", ["travelling", "resident", "blocks"])
def test_law_6_compiled_bytes_equal_the_arithmetic_and_nothing_is_all_gathered(make, rests):
    labels, shapes, parts = labelled(make(4, "blocks" if rests == "blocks" else "balanced"))
    parts = settled(parts, labels, shapes) if rests == "travelling" else parts
    exchange = over_mesh(labels, shapes, parts, subnet_mesh(4))
    indices, key, alive_S = parts.first(), jax.random.key(0), jnp.ones(4, bool)
    store = jax.eval_shape(exchange.init, shapes)
    store = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), store, exchange.shardings
    )
    sub_S = jax.eval_shape(exchange.pull, store, indices)
    steps = {
        "move": (exchange.move, (store, indices, indices, key)),
        "pull": (exchange.pull, (store, indices)),
        "push": (exchange.push, (store, sub_S, sub_S, indices, alive_S, key)),
    }
    texts = {name: jax.jit(f).lower(*args).compile().as_text() for name, (f, args) in steps.items()}
    assert {c.kind for text in texts.values() for c in collectives(text)} <= {"all-to-all", "all-reduce"}
    sent = {name: bytes_sent(text) for name, text in texts.items()}
    assert sum(sent.values()) == pytest.approx(sum(leaf.sent for leaf in costs.leaf_costs(labels, shapes, parts)))
    assert (sent["move"] > 0) == (rests == "travelling")
