"""ResIST's blocks: overlap on a mesh, evaluation in order, scales, what a sub-ResNet holds."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BATCH,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    chain,
    dataset,
    params_of,
    random_params,
    rounds,
)
from laws import check_law_6, compiled_bytes, masks, shapes_and_labels

from ist_jax import ist, replicated
from ist_jax.analysis import costs
from ist_jax.analysis.hlo import collectives
from ist_jax.core.placement import looped, sharded, subnet_mesh
from ist_jax.core.subnet import extract
from ist_jax.decompositions import blocks, channels, filters
from ist_jax.exchange import choose_holder_sharded
from ist_jax.models import VGG, PreActResNet, ResNet
from ist_jax.training.evaluation import evaluate

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
RESNET101 = PreActResNet((3, 4, 23, 3), 100)


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["balanced", "blocks"])
def test_law_6_with_a_minimum_depth(partition):
    decomposition = chain(4, partition, min_units=4)
    assert not decomposition.partition.disjoint
    check_law_6(decomposition, decomposition.partition, 4)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["one device", "mesh"])
@pytest.mark.parametrize("min_units", [0, 4])
def test_the_full_model_is_evaluated_with_its_blocks_in_order(place, min_units):
    """Also after rounds: the prediction is the full model's on parameters in original order."""
    decomposition, data = chain(4, min_units=min_units), dataset()
    placement = looped() if place == "one device" else sharded(subnet_mesh(4))
    method = ist(decomposition, TASK, SGD, batch_size=BATCH, placement=placement)
    assert bool(method.partition.holder_sharded) == (min_units == 0)
    state, _ = rounds(method, 2, 3, data)
    batch = TASK.batch(data.test, jnp.arange(8), None)
    logits = jax.jit(lambda state: method.predictor(state, None)(batch))(state)
    expected = decomposition.full.apply(params_of(method, state), batch["x"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("min_units", [0, 4])
def test_no_device_ever_has_all_blocks(min_units):
    """Evaluation over a mesh sends one block at a time: no collective is larger than a block.

    There are 9 blocks for 4 subnetworks, and the statistics of every norm are measured.
    """
    method = ist(
        chain(4, min_units=min_units),
        TASK,
        SGD,
        batch_size=BATCH,
        placement=sharded(subnet_mesh(4)),
    )
    put = lambda tree: jax.device_put(tree, method.sharding)
    arrays = put({name: jnp.asarray(array[:12]) for name, array in dataset().test.items()})

    def evaluation(state):
        return evaluate(method, TASK, state, {"test": arrays}, arrays, batch_size=6, subnets=False)

    collected = collectives(jax.jit(evaluation).lower(method.fresh(ROOT)).compile().as_text())
    block = 4 * 8 * 8
    assert {c.kind for c in collected} == {"all-reduce"}
    assert max(c.result_bytes for c in collected) <= block + 2 * 4 * 8, "a kernel, a scale, a bias"
    assert sum(c.times == 9 for c in collected), "in a loop over the blocks"


def test_a_sub_resnet_is_the_full_model_with_the_other_blocks_as_the_identity():
    decomposition = blocks(PreActResNet((1, 4), 3, width=4), IMAGE, num_subnets=3, stages=(2,))
    _, labels = shapes_and_labels(decomposition)
    params, x = random_params(decomposition), jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    sub = extract(params, labels, {"stage_2": jnp.array([1])})
    others = np.array([1.0, 0.0, 1.0]) == 1.0
    rest = jax.tree.map(
        lambda leaf: np.where(others.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf),
        params["stage_2_rest"],
    )
    unscaled = decomposition.full.module.clone(residual_scales=())
    expected = unscaled.apply({"params": params | {"stage_2_rest": rest}}, x)
    np.testing.assert_allclose(decomposition.subnet.apply(sub, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "num_subnets,min_blocks,scaling,scale",
    [
        (4, 0, "keep", 1 / 4),
        (8, 5, "keep", 5 / 22),
        (4, 6, "keep", 6 / 22),
        (4, 5, "keep", 1 / 4),
        (4, 0, "sqrt", 1 / 2),
        (1, 0, "keep", 1.0),
        (4, 0, "none", 1.0),
    ],
)
def test_residual_branches_are_scaled_by_the_expected_share_of_active_blocks(
    num_subnets, min_blocks, scaling, scale
):
    """22 blocks. X3 of the authors' release: 22 was a literal, wrong for its deeper networks."""
    made = blocks(RESNET101, IMAGE, num_subnets=num_subnets, min_blocks=min_blocks, scaling=scaling)
    assert made.full.module.residual_scales == pytest.approx((1.0, 1.0, scale, 1.0))
    assert made.subnet.module.residual_scales == (), "a subnetwork is not scaled"
    assert (
        replicated(made, num_subnets).subnet.module.residual_scales
        == made.full.module.residual_scales
    ), "local SGD's warm-up is"


def test_several_stages_have_their_own_scales():
    made = blocks(
        PreActResNet((3, 4, 23, 3), 10), IMAGE, num_subnets=2, stages=(1, 2, 3, 4), min_blocks=2
    )
    assert made.partition.sizes == {"stage_1": 2, "stage_2": 3, "stage_3": 22, "stage_4": 2}
    assert made.full.module.residual_scales == pytest.approx((1.0, 2 / 3, 1 / 2, 1.0))
    assert made.subnet.module.stage_sizes == (3, 3, 12, 3)


# MB sent by a device in a synchronisation:
# (S, minimum depth): ResIST, its lower bound, as published, local SGD
MB = {
    (2, 0): (90.0, 87.7, 165.6, 165.6),
    (4, 0): (120.9, 112.0, 262.5, 248.4),
    (8, 0): (141.0, 119.3, 306.3, 289.8),
    (8, 4): (174.1, 124.5, 306.3, 289.8),  # as in Table 1 of the paper
    (8, 5): (174.1, 128.6, 306.3, 289.8),
}


FAST = [(4, 0, "balanced", 0), (8, 4, "blocks", 2)]


@pytest.mark.parametrize(
    "num_subnets,min_blocks,held", [(2, 0, 11), (4, 0, 6), (8, 0, 3), (8, 4, 4), (8, 5, 5)]
)
def test_what_a_sub_resnet_holds_and_sends(num_subnets, min_blocks, held):
    """Table 1's parts: 15,422,116 shared parameters and 1,180,672 of every block.

    A padded slot counts: with S = 4, 22 blocks are in 4 x 6 slots.
    """
    decomposition = blocks(RESNET101, IMAGE, num_subnets=num_subnets, min_blocks=min_blocks)
    shapes, labels = shapes_and_labels(decomposition)
    parts = choose_holder_sharded(decomposition.partition, labels, shapes)
    assert costs.subnet_bytes(labels, shapes, parts) == 4 * (15_422_116 + held * 1_180_672)
    assert bool(parts.holder_sharded) == (min_blocks == 0)
    leaves = costs.leaf_costs(labels, shapes, parts)
    as_published = blocks(
        RESNET101, IMAGE, num_subnets=num_subnets, min_blocks=min_blocks, partition="blocks"
    )
    padded = costs.leaf_costs(
        labels, shapes, as_published.partition
    )  # a home may hold all of a subnetwork's blocks
    sent = [
        sum(leaf.sent for leaf in leaves),
        sum(leaf.lower_bound for leaf in leaves),
        sum(leaf.sent for leaf in padded),
    ]
    sent.append(costs.all_reduce_bytes(4 * 41_396_900, num_subnets))
    assert np.array(sent) / 1e6 == pytest.approx(np.array(MB[num_subnets, min_blocks]), abs=0.05)


@pytest.mark.parametrize(
    "num_subnets,min_blocks,partition,column",
    also_slowly(FAST, [(*case, *of) for case in MB for of in (("balanced", 0), ("blocks", 2))]),
)
def test_law_6_compiled_bytes_of_resnet101_equal_the_arithmetic(
    num_subnets, min_blocks, partition, column
):
    decomposition = blocks(
        RESNET101, IMAGE, num_subnets=num_subnets, min_blocks=min_blocks, partition=partition
    )
    shapes, labels = shapes_and_labels(decomposition)
    parts = (
        decomposition.partition
        if partition == "blocks"
        else choose_holder_sharded(decomposition.partition, labels, shapes)
    )
    sent = compiled_bytes(labels, shapes, parts, together=False)
    assert sum(sent.values()) / 1e6 == pytest.approx(MB[num_subnets, min_blocks][column], abs=0.05)
    if (num_subnets, min_blocks, partition) == (4, 0, "balanced"):
        assert sent["pull"] == 0 and sent["repartition"] / 1e6 == pytest.approx(
            3 * 2 * 4 * 1.180672, abs=0.05
        ), "two blocks to each other"


def test_inactive_blocks_are_neither_stored_nor_computed():
    """The compiled step of a sub-ResNet needs less memory; meter_test.py has its FLOPs."""
    model = PreActResNet((1, 1, 25), 3, width=4, unrolled=False)
    decomposition = blocks(model, IMAGE, num_subnets=4)
    sub, full = (
        jax.eval_shape(m.init, jax.random.key(0), jnp.zeros(IMAGE.shape))
        for m in (decomposition.subnet.module, model)
    )
    size = lambda tree: sum(leaf.size * 4 for leaf in jax.tree.leaves(tree["params"]))

    def loss(model, variables):
        return (model.apply(variables, jnp.ones((4, 8, 8, 3))) ** 2).sum()

    memory = []
    for net, variables in ((decomposition.subnet.module, sub), (model, full)):
        compiled = jax.jit(jax.grad(lambda v, net=net: loss(net, v))).lower(variables).compile()
        memory.append(compiled.memory_analysis())
    assert memory[0].argument_size_in_bytes == pytest.approx(size(sub), rel=0.01)
    assert memory[1].argument_size_in_bytes == pytest.approx(size(full), rel=0.01)
    block = 2 * 9 * 16 * 16 + 4 * 16
    assert size(full) - size(sub) == 4 * 18 * block, "18 of 24 blocks are somewhere else"
    assert memory[0].temp_size_in_bytes < 0.5 * memory[1].temp_size_in_bytes, (
        "and so are their activations"
    )


def test_what_cannot_be_divided_is_an_error():
    post = ResNet((1, 4), 3, width=4)
    with pytest.raises(ValueError, match="trains the bias of a padded block"):
        blocks(post, IMAGE, num_subnets=2, stages=(2,))
    blocks(post, IMAGE, num_subnets=2, stages=(2,), min_blocks=2)  # overlap needs no padding
    with pytest.raises(ValueError, match="group 'stage_2' has 3 units for num_subnets=4"):
        blocks(PreActResNet((1, 4), 3), IMAGE, num_subnets=4, stages=(2,))
    with pytest.raises(ValueError, match="stages are of 1 to 2"):
        blocks(PreActResNet((1, 4), 3), IMAGE, num_subnets=2)
    with pytest.raises(ValueError, match="between a block's two convolutions"):
        filters(ResNet((2,), 3, width=8, block="post_bottleneck"), IMAGE, num_subnets=2)
    for make, model in (
        (filters, ResNet((2,), 3, norm="group")),
        (channels, VGG((4,), (4,), 3, norm="group")),
    ):
        with pytest.raises(ValueError, match="runs over several"):
            make(model, IMAGE, num_subnets=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block, norm, num_subnets",
    [
        ("preact", "group", 1),
        ("post", "batch", 3),
        ("preact_bottleneck", "group", 4),
        ("post_bottleneck", "batch", 6),
    ],
)
def test_law_3_with_other_kinds_of_blocks_down_to_one_for_each(block, norm, num_subnets):
    """Six blocks. One that a sub-ResNet lacks is the identity, or relu of what is not negative."""
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    made = blocks(
        ResNet((1, 7), 5, width=4, block=block, norm=norm),
        image,
        num_subnets=num_subnets,
        stages=(2,),
    )
    (_, labels), params, parts = shapes_and_labels(made), random_params(made), made.partition
    indices = parts.sample(jax.random.key(1), parts.first())
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype(np.float32)
    full, held_S = made.full.module.clone(residual_scales=()), masks(labels, params, indices)
    for s in range(num_subnets):
        held = {group: index_SxM[s] for group, index_SxM in indices.items()}
        alone = made.subnet.apply(extract(params, labels, held), x)
        held = jax.tree.map(operator.itemgetter(s), held_S)
        masked = jax.tree.map(lambda leaf, mask: jnp.where(mask > 0, leaf, 0), params, held)
        np.testing.assert_allclose(alone, full.apply({"params": masked}, x), rtol=1e-3, atol=1e-4)
