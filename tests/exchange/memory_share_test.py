"""No device ever holds the whole model: read from the compiled programs of initialisation, round and evaluation."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CLASSES, TASK, as_users_compile, graph_dataset, raw_graph

from ist_jax import ist
from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.sample_order import Shards, View
from ist_jax.core.trees import tree_bytes
from ist_jax.data.base import strided_rows
from ist_jax.decompositions import blocks, channels, filters, gat, gcn, mlp, sage
from ist_jax.models import GAT, GCN, MLP, VGG, GraphSAGE, PreActResNet, ResNet
from ist_jax.tasks import node_classification
from ist_jax.training.evaluation import evaluate

FEATURES, EXAMPLES, BATCH, SAMPLE = (
    256,
    64,
    13,
    29,
)  # batches whose activations are as long as no parameter
NETWORKS = {
    "two-layers": (512, 512),
    "three-layers": (512, 256, 512),
    "one-layer": (512,),
    "uneven": (500, 510),
}


@functools.cache
def compiled(network, num_subnets):
    """The algorithm, and its programs by name, for one subnetwork per device."""
    split = mlp(
        MLP(NETWORKS[network], CLASSES),
        jax.ShapeDtypeStruct((1, FEATURES), jnp.float32),
        num_subnets=num_subnets,
    )
    place = sharded(subnet_mesh(num_subnets))
    algorithm = ist(split, TASK, optax.adam(1e-3), batch_size=4, placement=place, opt_state="carry")
    put = functools.partial(jax.device_put, device=algorithm.sharding)
    arrays = put({"x": jnp.zeros((EXAMPLES, FEATURES)), "y": jnp.zeros(EXAMPLES, jnp.int32)})
    shards = Shards(
        jnp.arange(EXAMPLES), jnp.zeros(num_subnets, int), jnp.full(num_subnets, EXAMPLES)
    )
    key, weight_S = put(jax.random.key(0)), put(jnp.ones(num_subnets, bool))
    init = jax.jit(algorithm.init).lower(key).compile()
    laid = lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=algorithm.start_sharding(leaf)
    )
    start = jax.tree.map(laid, jax.eval_shape(algorithm.end, jax.eval_shape(algorithm.init, key)))
    shapes = jax.eval_shape(algorithm.init, key)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        init.output_shardings,
    )
    view = View(arrays, put(shards), key)
    options = dict(batch_size=BATCH, subnets=True)
    whole = jax.jit(
        lambda state, arrays, few: evaluate(
            algorithm, TASK, state, {"test": arrays}, few, **options
        )
    )
    programs = {
        "init": init,
        "start": jax.jit(algorithm.init).lower(key, start._replace(opt_state=None)).compile(),
        "round": algorithm.round.lower(state, view, key, weight_S, steps=3).compile(),
        "evaluation": whole.lower(state, arrays, put(strided_rows(arrays, SAMPLE))).compile(),
    }
    return algorithm, programs, 4 * EXAMPLES * (FEATURES + 1)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_nothing_but_activations_is_gathered(network):
    _, programs, _ = compiled(network, 8)
    kinds = {
        name: {c.kind for c in collectives(program.as_text())} for name, program in programs.items()
    }
    assert kinds["init"] <= {"all-to-all"} and kinds["start"] <= {"all-to-all"}, (
        "homes deal the first units"
    )
    assert kinds["round"] == {"all-to-all"}
    widths = {-(-width // 8) * 8 for width in NETWORKS[network]} | {CLASSES}
    activations = {4 * rows * width for rows in (BATCH, SAMPLE) for width in widths}
    sums = {2 * size for size in (4 * width for width in widths)}  # moments of a norm, both at once
    for c in collectives(programs["evaluation"].as_text()):
        if (
            c.kind == "all-to-all"
        ):  # units of resident groups, to the subnetworks that are evaluated
            continue
        small = c.result_bytes <= 4 * 8 * CLASSES * BATCH and c.result_bytes not in {
            4 * width for width in widths
        }
        assert c.result_bytes in activations | sums or small, f"{c} is no activation"


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_parameters_gradients_and_optimizer_state_per_device_fall_as_one_over_s(network):
    """With carried Adam: three copies of the model rest, 1 / S of them on a device, and as much is worked on."""
    held, worked = {}, {}
    for num_subnets in (2, 8):
        algorithm, programs, data = compiled(network, num_subnets)
        memory = programs["round"].memory_analysis()
        held[num_subnets] = memory.argument_size_in_bytes - data
        worked[num_subnets] = memory.temp_size_in_bytes
        whole = 3 * 4 * algorithm.costs.model_parameters
        assert held[num_subnets] < 1.06 * whole / num_subnets + 8192, (
            "parameters and moments; keys, counts and indices"
        )
        assert programs["init"].memory_analysis().temp_size_in_bytes < 1.1 * whole / num_subnets
        start = programs["start"].memory_analysis()
        assert start.temp_size_in_bytes < 1.5 * whole / num_subnets
        if network != "uneven":  # a leaf none of whose axes the devices divide comes whole
            assert start.argument_size_in_bytes < 1.1 * whole / 3 / num_subnets
        assert (
            programs["evaluation"].memory_analysis().temp_size_in_bytes
            < whole / num_subnets + 2**18
        )
    assert held[8] < 1.1 * held[2] / 4
    assert worked[8] < 1.1 * worked[2] / 4 + 2**15


@pytest.mark.parametrize("network", ["two-layers", "three-layers", "one-layer"])
def test_the_compiled_round_sends_what_the_arithmetic_says_and_is_at_its_lower_bound(network):
    """Widths that S^2 divides, 8 devices."""
    algorithm, programs, _ = compiled(network, 8)
    leaves = algorithm.costs.leaves
    assert (
        bytes_sent(programs["round"].as_text())
        == sum(leaf.sent for leaf in leaves)
        == algorithm.costs.bytes_per_sync
    )
    ways = {leaf.way for leaf in leaves if leaf.sent}
    assert ways == ({"travels"} if network == "one-layer" else {"travels", "home"})
    for leaf in leaves:
        assert (
            leaf.sent <= {"travels": 1.02, "home": 2.05, "equal": 0}[leaf.way] * leaf.lower_bound
        ), leaf


def test_losses_leave_the_round_sharded():
    _, programs, _ = compiled("one-layer", 8)
    assert programs["round"].output_shardings[1]["loss_SxJ"].spec == jax.sharding.PartitionSpec(
        "subnet"
    )


def test_the_program_that_users_run_holds_and_sends_the_same():
    """The suite compiles without most optimisations (conftest.py)."""
    with as_users_compile():
        algorithm, programs, data = compiled.__wrapped__("three-layers", 8)
    assert bytes_sent(programs["round"].as_text()) == algorithm.costs.bytes_per_sync
    assert {c.kind for c in collectives(programs["round"].as_text())} == {"all-to-all"}
    held = programs["round"].memory_analysis().argument_size_in_bytes - data
    assert held < 1.06 * 3 * 4 * algorithm.costs.model_parameters / 8 + 8192
    assert (
        programs["evaluation"].memory_analysis().temp_size_in_bytes
        < 3 * 4 * algorithm.costs.model_parameters / 8 + 2**18
    )


def of_features(num_subnets=8):
    data = graph_dataset(raw_graph(40), first_product="symmetric")
    return (
        gcn(GCN((256, 128), CLASSES), 12, num_subnets=num_subnets),
        node_classification(0, 2),
        data.arrays("test"),
        1,
    )


def of_attention(num_subnets=8):
    data = graph_dataset(raw_graph(40))
    model = GAT((128, 64), CLASSES, heads=2)
    return gat(model, 12, num_subnets=num_subnets), node_classification(), data.arrays("test"), 1


def of_filters(num_subnets=8):
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return (
        filters(ResNet((2,), CLASSES, width=64), image, num_subnets=num_subnets),
        TASK,
        arrays,
        13,
    )


def of_channels(num_subnets=8):
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return (
        channels(VGG((64, 128), (64,), CLASSES), image, num_subnets=num_subnets),
        TASK,
        arrays,
        13,
    )


def of_blocks(num_subnets=8):
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


def laid(algorithm, key):
    """The shapes of the algorithm's fresh state, as it lies."""
    shardings = jax.jit(algorithm.init).lower(key).compile().output_shardings
    lay = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(lay, jax.eval_shape(algorithm.init, key), shardings)


def round_of(made, num_subnets, tx, devices=None, **options):
    """The algorithm, its state's shapes as they lie, its data, and its compiled round of one step."""
    split, task, arrays, _ = made
    place = sharded(subnet_mesh(devices or num_subnets))
    algorithm = ist(split, task, tx, batch_size=1, placement=place, **options)
    key = jax.device_put(jax.random.key(0), algorithm.sharding)
    state = laid(algorithm, key)
    arrays, weight_S = jax.device_put(
        (dict(arrays), jnp.ones(num_subnets, bool)), algorithm.sharding
    )
    many = len(arrays["y"]) if "y" in arrays else 1
    shards = Shards(jnp.arange(many), jnp.zeros(num_subnets, int), jnp.full(num_subnets, many))
    view = View(arrays, jax.device_put(shards, algorithm.sharding), key)
    return (
        algorithm,
        state,
        arrays,
        algorithm.round.lower(state, view, key, weight_S, steps=1).compile(),
    )


def whole_bytes(algorithm, devices, *ways):
    """Of every leaf that is exchanged in one of these ways, its bytes in the whole model."""
    return [
        leaf.all_reduce / (2 * (devices - 1) / devices)
        for leaf in algorithm.costs.leaves
        if leaf.way in ways
    ]


@pytest.mark.parametrize("make", [of_features, of_attention, of_filters, of_channels])
def test_dealt_features_filters_and_channels_are_not_gathered_either(make):
    """Of the evaluation nothing but activations, of which none is as large as a dealt kernel; of the round what is shared."""
    made = make()
    algorithm, state, arrays, round = round_of(made, 8, optax.sgd(0.1))
    options = dict(batch_size=made[3], subnets=False)
    whole = lambda state, arrays: evaluate(
        algorithm, made[1], state, {"test": arrays}, None, **options
    )
    evaluation = jax.jit(whole).lower(state, arrays).compile()
    found = collectives(round.as_text())
    shared = {"all-reduce"} if whole_bytes(algorithm, 8, "shared") else set()
    assert {c.kind for c in found} == {"all-to-all"} | shared
    assert bytes_sent(round.as_text()) == algorithm.costs.bytes_per_sync
    assert sum(c.result_bytes for c in found if c.kind == "all-reduce") == sum(
        whole_bytes(algorithm, 8, "shared")
    )
    kernels = [size for size in whole_bytes(algorithm, 8, "travels", "home") if size > 2**16]
    assert kernels and max(c.result_bytes for c in collectives(evaluation.as_text())) < min(kernels)
    assert evaluation.memory_analysis().temp_size_in_bytes < 4 * algorithm.costs.model_parameters


@pytest.mark.parametrize("make", [of_features, of_attention, of_filters, of_channels, of_blocks])
def test_what_rests_of_dealt_groups_falls_as_one_over_s_but_for_what_is_shared(make):
    """With carried Adam: three copies, of what is dealt a share of 1 / S each."""
    for num_subnets in (2, 8):
        algorithm, _, arrays, round = round_of(
            make(num_subnets), num_subnets, optax.adam(1e-3), opt_state="carry"
        )
        shared = sum(
            whole_bytes(algorithm, num_subnets, "shared")
        )  # a carried moment is a leaf of its own
        whole = 3 * 4 * algorithm.costs.model_parameters
        held = round.memory_analysis().argument_size_in_bytes - tree_bytes(arrays)
        assert held < 1.06 * (shared + (whole - shared) / num_subnets) + 8192


@pytest.mark.parametrize("make", [of_features, of_attention, of_filters, of_channels, of_blocks])
def test_the_state_is_donated_and_no_number_is_float64(make):
    """A round's result lies where its argument lay; nothing is computed in more than float32."""
    _, state, _, round = round_of(make(), 8, optax.adam(1e-3), opt_state="carry")
    own = lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    assert round.memory_analysis().alias_size_in_bytes > 0.95 * tree_bytes(
        jax.tree.map(own, state)
    ), "all but small counts"
    assert "f64[" not in round.as_text() and "f32[" in round.as_text()


@pytest.mark.parametrize("make", [of_features, of_attention, of_filters, of_channels, of_blocks])
def test_dealt_features_filters_channels_and_blocks_are_initialised_in_shares(make):
    """What is drawn to begin with, beside what is shared, falls with S; only units are sent."""
    worked = {}
    for num_subnets in (2, 8):
        split, task, *_ = make(num_subnets)
        algorithm = ist(
            split, task, optax.sgd(0.1), batch_size=1, placement=sharded(subnet_mesh(num_subnets))
        )
        key = jax.device_put(jax.random.key(0), algorithm.sharding)
        program = jax.jit(algorithm.init).lower(key).compile()
        assert {c.kind for c in collectives(program.as_text())} <= {"all-to-all"}
        worked[num_subnets] = program.memory_analysis().temp_size_in_bytes
        dealt = sum(whole_bytes(algorithm, num_subnets, "travels", "home"))
    assert dealt > 2**16 and worked[8] < worked[2] - dealt / 4, (
        "a quarter and more of what is dealt, with 8 for 2"
    )


def as_large_as_runs(kind):
    """A decomposition, its task, arrays of many examples (nodes), how many are evaluated at once, and the sample."""
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


@pytest.mark.parametrize("kind", ["mlp", "sage"])
def test_with_as_many_rows_as_in_runs_the_evaluation_still_gathers_activations_and_no_parameters(
    kind,
):
    """A partitioner may choose what it moves by size; here activations are the larger."""
    split, task, arrays, rows, sample = as_large_as_runs(kind)
    algorithm = ist(split, task, optax.sgd(0.1), batch_size=1, placement=sharded(subnet_mesh(8)))
    key = jax.device_put(jax.random.key(0), algorithm.sharding)
    whole = lambda state, arrays, sample: evaluate(
        algorithm,
        task,
        state,
        {"test": arrays},
        sample,
        batch_size=rows if kind == "mlp" else 1,
        subnets=False,
    )
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=algorithm.sharding)
    everywhere = lambda tree: jax.tree.map(shape, tree)
    program = (
        jax.jit(whole).lower(laid(algorithm, key), everywhere(arrays), everywhere(sample)).compile()
    )
    found = collectives(program.as_text())
    kernels = [size for size in whole_bytes(algorithm, 8, "travels", "home") if size > 2**16]
    assert kernels and all(size % (4 * rows) for size in kernels)
    assert found and all(c.result_bytes % (4 * rows) == 0 for c in found), (
        "of whole rows: activations"
    )


@pytest.mark.parametrize("devices", [2, 4])
def test_several_subnetworks_of_a_device_send_less_as_some_blocks_stay(devices):
    """Of S / D subnetworks' blocks, D - 1 of D leave the device."""
    split = mlp(
        MLP(NETWORKS["three-layers"], CLASSES),
        jax.ShapeDtypeStruct((1, FEATURES), jnp.float32),
        num_subnets=8,
    )
    arrays = {"x": jnp.zeros((EXAMPLES, FEATURES)), "y": jnp.zeros(EXAMPLES, jnp.int32)}
    algorithm, *_, round = round_of((split, TASK, arrays, 1), 8, optax.sgd(0.1), devices)
    blocks = algorithm.costs.bytes_per_sync / (7 / 8) * (devices - 1) / devices
    assert bytes_sent(round.as_text()) == 8 / devices * blocks
