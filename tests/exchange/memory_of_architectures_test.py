"""No device ever holds all partitioned leaves of graph networks, residual networks and VGG."""

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CLASSES, TASK, also_slowly, graph_dataset, raw_graph

from ist_jax import ist
from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.sample_order import Shards, View
from ist_jax.core.trees import tree_bytes
from ist_jax.decompositions import blocks, channels, filters, gat, gcn, mlp, sage, transformer
from ist_jax.models import GAT, GCN, MLP, VGG, GraphSAGE, PreActResNet, ResNet, Transformer
from ist_jax.tasks import next_token, node_classification
from ist_jax.training.evaluation import evaluate

FEATURES = 256


def gcn_features(num_subnets=8):
    data = graph_dataset(raw_graph(40), first_product="symmetric")
    return (
        gcn(GCN((256, 128), CLASSES), 12, num_subnets=num_subnets),
        node_classification(0, 2),
        data.arrays("test"),
        1,
    )


def gat_heads(num_subnets=8):
    data = graph_dataset(raw_graph(40))
    model = GAT((128, 64), CLASSES, heads=2)
    return gat(model, 12, num_subnets=num_subnets), node_classification(), data.arrays("test"), 1


def resnet_filters(num_subnets=8):
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return (
        filters(ResNet((2,), CLASSES, width=64), image, num_subnets=num_subnets),
        TASK,
        arrays,
        13,
    )


def vgg_channels(num_subnets=8):
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return (
        channels(VGG((64, 128), (64,), CLASSES), image, num_subnets=num_subnets),
        TASK,
        arrays,
        13,
    )


def resnet_blocks(num_subnets=8):
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return (
        blocks(
            PreActResNet((1, 65), CLASSES, width=16), image, num_subnets=num_subnets, stages=(2,)
        ),
        TASK,
        arrays,
        13,
    )


def transformer_parts(num_subnets=8):
    example = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    model = Transformer(32, 4, layers=2, width=32, heads=16, head_dim=4, mlp_width=512)
    arrays = {"start": jnp.arange(26), "tokens": jnp.zeros(32, jnp.uint8)}
    return (
        transformer(model, example, num_subnets=num_subnets, split=("neurons", "heads")),
        next_token(4),
        arrays,
        13,
    )


def state_shapes(method, key):
    """The shapes of the method's fresh state, with their shardings."""
    shardings = jax.jit(method.init).lower(key).compile().output_shardings
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(method.init, key),
        shardings,
    )


def round_of(case, num_subnets, tx, devices=None, **options):
    """(method, shapes of its state, data, its compiled round of one step)."""
    split, task, arrays, _ = case
    place = sharded(subnet_mesh(devices or num_subnets))
    method = ist(split, task, tx, batch_size=1, placement=place, **options)
    key = jax.device_put(jax.random.key(0), method.sharding)
    state = state_shapes(method, key)
    arrays, weight_S = jax.device_put((dict(arrays), jnp.ones(num_subnets)), method.sharding)
    many = len(arrays["y"]) if "y" in arrays else 1
    shards = Shards(jnp.arange(many), jnp.zeros(num_subnets, int), jnp.full(num_subnets, many))
    view = View(arrays, jax.device_put(shards, method.sharding), key)
    return (
        method,
        state,
        arrays,
        method.round.lower(state, view, key, weight_S, steps=1).compile(),
    )


def full_bytes(method, devices, *kinds):
    """The bytes in the full model of every leaf of one of these kinds."""
    return [
        leaf.all_reduce / (2 * (devices - 1) / devices)
        for leaf in method.costs.leaves
        if leaf.kind in kinds
    ]


MAKE = (
    gcn_features,
    gat_heads,
    resnet_filters,
    vgg_channels,
    transformer_parts,
    resnet_blocks,
)
by_architecture = pytest.mark.parametrize("make", also_slowly([gcn_features], MAKE))


@pytest.mark.parametrize("make", also_slowly([gcn_features], MAKE[:-1]))
def test_partitioned_features_filters_and_channels_are_never_gathered(make):
    """The round reduces only shared leaves. The evaluation moves only activations."""
    case = make()
    method, state, arrays, round = round_of(case, 8, optax.sgd(0.1))
    evaluation = (
        jax.jit(
            lambda state, arrays: evaluate(
                method,
                case[1],
                state,
                {"test": arrays},
                None,
                batch_size=case[3],
                subnets=False,
            )
        )
        .lower(state, arrays)
        .compile()
    )
    in_round = collectives(round.as_text())
    shared = {"all-reduce"} if full_bytes(method, 8, "shared") else set()
    assert {c.kind for c in in_round} == {"all-to-all"} | shared
    assert bytes_sent(round.as_text()) == method.costs.bytes_per_sync
    assert sum(c.result_bytes for c in in_round if c.kind == "all-reduce") == sum(
        full_bytes(method, 8, "shared")
    )
    kernels = [
        size for size in full_bytes(method, 8, "holder-sharded", "home-sharded") if size > 2**16
    ]
    assert kernels and max(c.result_bytes for c in collectives(evaluation.as_text())) < min(kernels)
    assert evaluation.memory_analysis().temp_size_in_bytes < 4 * method.costs.model_parameters


@pytest.mark.slow
@by_architecture
def test_stored_bytes_fall_as_one_over_s_except_those_of_shared_leaves(make):
    """With carried Adam, three copies are stored: 1 / S of each partitioned leaf per device."""
    for num_subnets in (2, 8):
        method, _, arrays, round = round_of(
            make(num_subnets), num_subnets, optax.adam(1e-3), opt_state="carry"
        )
        # carried moments are leaves, too
        shared = sum(full_bytes(method, num_subnets, "shared"))
        full = 3 * 4 * method.costs.model_parameters
        held = round.memory_analysis().argument_size_in_bytes - tree_bytes(arrays)
        assert held < 1.06 * (shared + (full - shared) / num_subnets) + 8192


@by_architecture
def test_the_state_is_donated_and_no_number_is_float64(make):
    """A round's result takes the memory of its argument, except for small counts."""
    _, state, _, round = round_of(make(), 8, optax.adam(1e-3), opt_state="carry")

    def on_one_device(leaf):
        return jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)

    stored = tree_bytes(jax.tree.map(on_one_device, state))
    assert round.memory_analysis().alias_size_in_bytes > 0.95 * stored
    assert "f64[" not in round.as_text() and "f32[" in round.as_text()


@by_architecture
def test_every_device_initialises_its_share_of_partitioned_leaves(make):
    """The memory of the initialisation falls with S, and only units are sent."""
    worked = {}
    for num_subnets in (2, 8):
        split, task, *_ = make(num_subnets)
        method = ist(
            split, task, optax.sgd(0.1), batch_size=1, placement=sharded(subnet_mesh(num_subnets))
        )
        key = jax.device_put(jax.random.key(0), method.sharding)
        program = jax.jit(method.init).lower(key).compile()
        assert {c.kind for c in collectives(program.as_text())} <= {"all-to-all"}
        worked[num_subnets] = program.memory_analysis().temp_size_in_bytes
        partitioned = sum(full_bytes(method, num_subnets, "holder-sharded", "home-sharded"))
    assert partitioned > 2**16 and worked[8] < worked[2] - partitioned / 4


def as_large_as_runs(kind):
    """(decomposition, task, arrays of many examples, rows of activations, calibration)."""
    if kind == "sage":
        data = graph_dataset(raw_graph(3000), first_product="mean")
        return (
            sage(GraphSAGE((256, 128), CLASSES), 12, num_subnets=8),
            node_classification(),
            data.arrays("test"),
            3000,
            None,
        )
    split = mlp(
        MLP((512, 256, 512), CLASSES),
        jax.ShapeDtypeStruct((1, FEATURES), jnp.float32),
        num_subnets=8,
    )
    arrays = {
        "x": jax.ShapeDtypeStruct((2000, FEATURES), jnp.float32),
        "y": jax.ShapeDtypeStruct((2000,), jnp.int32),
    }
    return split, TASK, arrays, 1000, arrays


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "sage"])
def test_evaluation_moves_activations_rather_than_parameters_though_they_are_larger(kind):
    """XLA's partitioner may choose by size what it moves."""
    split, task, arrays, rows, calibration = as_large_as_runs(kind)
    method = ist(split, task, optax.sgd(0.1), batch_size=1, placement=sharded(subnet_mesh(8)))
    key = jax.device_put(jax.random.key(0), method.sharding)

    def evaluation(state, arrays, calibration):
        return evaluate(
            method,
            task,
            state,
            {"test": arrays},
            calibration,
            batch_size=rows if kind == "mlp" else 1,
            subnets=False,
        )

    def everywhere(tree):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=method.sharding),
            tree,
        )

    arguments = state_shapes(method, key), everywhere(arrays), everywhere(calibration)
    moved = collectives(jax.jit(evaluation).lower(*arguments).compile().as_text())
    kernels = [
        size for size in full_bytes(method, 8, "holder-sharded", "home-sharded") if size > 2**16
    ]
    assert kernels and all(size % (4 * rows) for size in kernels)
    assert moved and all(c.result_bytes % (4 * rows) == 0 for c in moved), "rows of activations"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_a_device_of_several_subnetworks_sends_less_since_some_blocks_stay(devices):
    """Of the blocks of R devices, (R - 1) / R leave their device."""
    split = mlp(
        MLP((512, 256, 512), CLASSES),
        jax.ShapeDtypeStruct((1, FEATURES), jnp.float32),
        num_subnets=8,
    )
    arrays = {"x": jnp.zeros((64, FEATURES)), "y": jnp.zeros(64, jnp.int32)}
    method, *_, round = round_of((split, TASK, arrays, 1), 8, optax.sgd(0.1), devices)
    blocks = method.costs.bytes_per_sync / (7 / 8) * (devices - 1) / devices
    assert bytes_sent(round.as_text()) == 8 / devices * blocks
