"""Bytes by arithmetic, by hand, and as compiled."""

import jax
import jax.numpy as jnp
import pytest
from cases import DECOMPOSITIONS, own

from ist_jax import costs
from ist_jax.decompositions import mlp, undivided
from ist_jax.exchange import home_sharded
from ist_jax.hlo import Collective, bytes_sent, collectives
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
    assert costs.home_sharded_bytes(labels, shapes, parts) == 2 * 7 / 8 * 4 * entries / 8
    assert costs.lower_bound_bytes(labels, shapes, parts) == pytest.approx(7.4e6, rel=0.01)
    assert costs.all_reduce_bytes(4 * entries, 8) == pytest.approx(118.5e6, rel=0.01)


def test_hidden_kernels_are_held_to_one_part_in_s_squared():
    decomposition = mlp(MLP((64, 64), 10), jax.ShapeDtypeStruct((1, 20), jnp.float32), num_subnets=4)
    labels, shapes, parts = labelled(decomposition)
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * (20 * 16 + 16 * 16 + 16 * 10 + 4 * 16)


def test_without_groups_it_is_the_ring_all_reduce():
    decomposition = undivided(DECOMPOSITIONS["mlp"](4), 4)
    labels, shapes, parts = labelled(decomposition)
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes))
    assert costs.home_sharded_bytes(labels, shapes, parts) == 2 * 3 / 4 * whole
    assert costs.lower_bound_bytes(labels, shapes, parts) == 2 * 3 / 4 * whole


@pytest.mark.parametrize("make", [DECOMPOSITIONS["mlp"], DECOMPOSITIONS["mlp-uneven"], own], ids=["mlp", "uneven", "own-model"])
@pytest.mark.parametrize("partition", ["balanced", "blocks"])
def test_law_6_compiled_bytes_equal_the_arithmetic_and_nothing_is_all_gathered(make, partition):
    decomposition = make(4, partition)
    labels, shapes, parts = labelled(decomposition)
    exchange = home_sharded(labels, shapes, parts, subnet_mesh(4))
    store = jax.eval_shape(exchange.init, shapes)
    store = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), store, exchange.shardings
    )
    indices = parts.first()
    pull = jax.jit(exchange.pull).lower(store, indices, indices).compile().as_text()
    sub_S = jax.eval_shape(exchange.pull, store, indices, indices)
    push = jax.jit(exchange.push).lower(store, sub_S, indices, jnp.ones(4, bool)).compile().as_text()
    assert {c.kind for c in collectives(pull)} == {"all-to-all"}
    assert {c.kind for c in collectives(push)} <= {"all-to-all", "all-reduce"}
    assert bytes_sent(pull) + bytes_sent(push) == pytest.approx(costs.home_sharded_bytes(labels, shapes, parts))


def test_collectives_are_read_from_hlo_text():
    text = """
  %all-to-all.3 = (f32[1,2,8]{2,1,0}, f32[1,2,8]{2,1,0}) all-to-all(%a, %b), channel_id=1, replica_groups={{0,1}}
  %x = f32[1,2]{1,0} get-tuple-element(%all-to-all.3), index=0
  %psum.7 = bf16[10]{0} all-reduce(%y), channel_id=1, replica_groups=mesh['subnet'=4] {'subnet'}, to_apply=%add
  %ag = s8[4,16]{1,0} all-gather(%z), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
"""
    assert collectives(text) == [
        Collective("all-to-all", 128, 2),
        Collective("all-reduce", 20, 4),
        Collective("all-gather", 64, 8),
    ]
    assert bytes_sent(text) == 64 + 2 * 3 / 4 * 20 + 7 / 8 * 64
