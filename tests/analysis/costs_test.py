"""Bytes by arithmetic, by hand, and as compiled."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import DECOMPOSITIONS, also_slowly, custom
from jax.sharding import PartitionSpec
from laws import compiled_bytes

from ist_jax.analysis import costs
from ist_jax.analysis.hlo import collectives
from ist_jax.core.partition import partition
from ist_jax.core.placement import AXIS, subnet_mesh
from ist_jax.core.subnet import Label, label_axes
from ist_jax.decompositions import mlp, replicated
from ist_jax.exchange import choose_holder_sharded
from ist_jax.exchange.transport import MeshTransport
from ist_jax.models import MLP


def labelled(decomposition):
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    return (
        label_axes(shapes, decomposition.rules, decomposition.partition.sizes),
        shapes,
        decomposition.partition,
    )


def test_the_papers_speech_network_by_hand():
    """4096-4096-35 with BatchNorm: 1/S of both kernels and of scale and bias, S = 8."""
    decomposition = mlp(
        MLP((4096,), 35), jax.ShapeDtypeStruct((1, 4096), jnp.float32), num_subnets=8
    )
    labels, shapes, parts = labelled(decomposition)
    entries = 4096 * 4096 + 4096 * 35 + 2 * 4096
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * entries // 8
    once = 7 / 8 * 4 * entries / 8
    assert once == pytest.approx(7.4e6, rel=0.01)
    home = costs.leaf_costs(labels, shapes, parts)
    assert {leaf.kind for leaf in home} == {"home-sharded"}
    assert sum(leaf.sent for leaf in home) == 2 * once
    holder = costs.leaf_costs(labels, shapes, choose_holder_sharded(parts, labels, shapes))
    assert {leaf.kind for leaf in holder} == {"holder-sharded"}, "no leaf has two groups"
    assert sum(leaf.sent for leaf in holder) == sum(leaf.lower_bound for leaf in holder) == once
    assert sum(leaf.all_reduce for leaf in holder) == pytest.approx(118.5e6, rel=0.01)
    assert costs.all_reduce_bytes(4 * entries, 8) == pytest.approx(118.5e6, rel=0.01)


def test_a_subnetwork_holds_one_part_in_s_squared_of_a_hidden_kernel():
    decomposition = mlp(
        MLP((64, 64), 10), jax.ShapeDtypeStruct((1, 20), jnp.float32), num_subnets=4
    )
    labels, shapes, parts = labelled(decomposition)
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * (20 * 16 + 16 * 16 + 16 * 10 + 4 * 16)


def test_without_groups_the_cost_is_that_of_a_ring_all_reduce():
    decomposition = replicated(DECOMPOSITIONS["mlp"](4), 4)
    labels, shapes, parts = labelled(decomposition)
    full = sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes))
    for leaf in (leaves := costs.leaf_costs(labels, shapes, parts)):
        assert leaf.kind == "shared" and leaf.sent == leaf.lower_bound == leaf.all_reduce
    assert sum(leaf.sent for leaf in leaves) == 2 * 3 / 4 * full


@pytest.mark.parametrize(
    "make",
    [DECOMPOSITIONS["mlp"], DECOMPOSITIONS["mlp-uneven"], custom],
    ids=["mlp", "uneven", "custom"],
)
@pytest.mark.parametrize(
    "stored", also_slowly(["holder-sharded"], ["holder-sharded", "home-sharded", "blocks"])
)
def test_law_6_compiled_bytes_equal_the_arithmetic_and_nothing_is_all_gathered(make, stored):
    labels, shapes, parts = labelled(make(4, "blocks" if stored == "blocks" else "balanced"))
    parts = choose_holder_sharded(parts, labels, shapes) if stored == "holder-sharded" else parts
    sent = compiled_bytes(labels, shapes, parts)
    assert sum(sent.values()) == pytest.approx(
        sum(leaf.sent for leaf in costs.leaf_costs(labels, shapes, parts))
    )
    assert (sent["repartition"] > 0) == (stored == "holder-sharded")


def test_small_blocks_of_a_dtype_share_a_collective_and_large_ones_have_their_own():
    mesh = subnet_mesh(2)
    transport = MeshTransport(mesh, 2, fuse_below=4 * 2 * 5)
    shapes = [
        ((2, 4), jnp.float32),
        ((2, 3), jnp.float32),
        ((2, 4), jnp.int32),
        ((2, 5), jnp.float32),
        ((2, 6), jnp.float32),
    ]
    blocks = [
        jnp.arange(2 * math.prod(shape), dtype=dtype).reshape(4, -1) for shape, dtype in shapes
    ]
    send = jax.jit(
        transport.shard_mapped(transport.all_to_all, (PartitionSpec(AXIS),), PartitionSpec(AXIS))
    )
    sizes = [c.result_bytes for c in collectives(send.lower(blocks).compile().as_text())]
    assert sorted(sizes) == sorted([4 * 2 * (4 + 3), 4 * 2 * 4, 4 * 2 * 5, 4 * 2 * 6])
    for block, got in zip(blocks, send(blocks)):
        np.testing.assert_array_equal(got, np.asarray(block)[[0, 2, 1, 3]])


@pytest.mark.slow
@pytest.mark.parametrize("slots", [4, 6, 12])
def test_the_bound_of_units_with_several_holders_is_below_what_averaging_takes(slots):
    """All holders but one send a unit for the mean, and all next holders but one receive the mean.

    One message less is needed if a holder is a next holder, too.
    """
    parts = partition("balanced", {"g": 12}, 4, min_units=slots)
    (leaf,) = costs.leaf_costs(
        {"x": Label(("g",))}, {"x": jax.ShapeDtypeStruct((12,), jnp.float32)}, parts
    )
    draw = jax.vmap(lambda key: parts.sample(key, parts.first())["g"])
    index_RxSxM = np.asarray(draw(jax.random.split(jax.random.key(0), 40)))
    held_RxSxN = (index_RxSxM[..., None] == np.arange(12)).any(axis=2)

    def taken(old, new):
        return (old.sum(0) - 1) + (new.sum(0) - 1) + ~(old & new).any(0)

    units_of_all = np.mean([taken(*pair).sum() for pair in itertools.pairwise(held_RxSxN)])
    assert leaf.lower_bound <= 4 * units_of_all / 4, "bytes of one device out of four"


# parameters of ResNet101 for 100 classes: those that all subnetworks share, and those of one block
SHARED, BLOCK = 15_422_116, 1_180_672


@pytest.mark.parametrize(
    "num_subnets,blocks,resist,local_sgd",
    [(2, 11, 0.454, 0.662), (4, 6, 0.720, 1.325), (8, 4, 1.289, 2.649)],
)
def test_the_resist_papers_table_1_in_its_own_convention(num_subnets, blocks, resist, local_sgd):
    """Gigabytes per round of all workers (Dun et al., UAI 2022). Each has 11, 6 or 4 of 22
    blocks."""
    shapes = {
        "shared": jax.ShapeDtypeStruct((SHARED,), jnp.float32),
        "blocks": jax.ShapeDtypeStruct((22, BLOCK), jnp.float32),
    }
    parts = partition("blocks", {"block": 22}, num_subnets, min_units=blocks)
    labels = label_axes(shapes, [("shared", None), ("blocks", ("block", None))], parts.sizes)
    assert costs.server_bytes(labels, shapes, parts) / 1e9 == pytest.approx(resist, abs=0.0006)
    alone = partition("fixed", {}, num_subnets)
    full = {"model": jax.ShapeDtypeStruct((SHARED + 22 * BLOCK,), jnp.float32)}
    assert full["model"].size == 41_396_900
    num_bytes = costs.server_bytes(label_axes(full, [("model", None)], {}), full, alone)
    assert num_bytes / 1e9 == pytest.approx(local_sgd, abs=0.0006)


def test_messages_one_after_another():
    def leaf(kind, sent=1.0):
        return costs.LeafCost("x", kind, sent, 0, 0)

    holder, home = leaf("holder-sharded"), leaf("home-sharded")
    assert costs.messages([holder], 8) == 1
    assert costs.messages([holder, holder, home], 8) == 3
    assert costs.messages([home, leaf("shared"), leaf("equal", 0.0)], 8) == 2 + 14
    assert costs.messages([leaf("shared", 0.0)], 1) == 0


def test_energy_is_both_coefficients_by_hand():
    joules = costs.energy(19.5e12, 1e9)
    assert joules["compute"] == pytest.approx(400)
    assert joules["link"] == pytest.approx(0.06 * 3600 * 1000)
    assert costs.energy(2, 3, joules_per_flop=5, joules_per_byte=7) == {
        "compute": 10,
        "link": 21,
        "joules_per_flop": 5,
        "joules_per_byte": 7,
    }
