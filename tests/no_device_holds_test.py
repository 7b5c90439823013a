"""No device ever holds the whole model: read from the compiled programs of initialisation, round and evaluation."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CLASSES, TASK, graph_dataset, raw_graph

from ist_jax import ist
from ist_jax.data.base import spaced
from ist_jax.decompositions import filters, gcn, mlp
from ist_jax.evaluation import evaluate
from ist_jax.hlo import bytes_sent, collectives
from ist_jax.models import GCN, MLP, ResNet
from ist_jax.order import Shards, View
from ist_jax.placement import sharded, subnet_mesh
from ist_jax.tasks import node_classification

FEATURES, EXAMPLES, BATCH, SAMPLE = 256, 64, 13, 29  # batches whose activations are as long as no parameter
NETWORKS = {"two-layers": (512, 512), "three-layers": (512, 256, 512), "one-layer": (512,), "uneven": (500, 510)}


@functools.cache
def compiled(network, num_subnets):
    """The algorithm, and its programs by name, for one subnetwork per device."""
    split = mlp(MLP(NETWORKS[network], CLASSES), jax.ShapeDtypeStruct((1, FEATURES), jnp.float32), num_subnets=num_subnets)
    place = sharded(subnet_mesh(num_subnets))
    algorithm = ist(split, TASK, optax.adam(1e-3), batch_size=4, placement=place, opt_state="carry")
    put = functools.partial(jax.device_put, device=algorithm.sharding)
    arrays = put({"x": jnp.zeros((EXAMPLES, FEATURES)), "y": jnp.zeros(EXAMPLES, jnp.int32)})
    shards = Shards(jnp.arange(EXAMPLES), jnp.zeros(num_subnets, int), jnp.full(num_subnets, EXAMPLES))
    key, alive_S = put(jax.random.key(0)), put(jnp.ones(num_subnets, bool))
    init = jax.jit(algorithm.init).lower(key).compile()
    laid = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=algorithm.start_sharding(leaf))
    start = jax.tree.map(laid, jax.eval_shape(algorithm.end, jax.eval_shape(algorithm.init, key)))
    shapes = jax.eval_shape(algorithm.init, key)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, init.output_shardings)
    view = View(arrays, put(shards), key)
    options = dict(batch_size=BATCH, subnets=True)
    whole = jax.jit(lambda state, arrays, few: evaluate(algorithm, TASK, state, {"test": arrays}, few, **options))
    programs = {
        "init": init,
        "start": jax.jit(algorithm.init).lower(key, start._replace(opt_state=None)).compile(),
        "round": algorithm.round.lower(state, view, key, alive_S, steps=3).compile(),
        "evaluation": whole.lower(state, arrays, put(spaced(arrays, SAMPLE))).compile(),
    }
    return algorithm, programs, 4 * EXAMPLES * (FEATURES + 1)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_nothing_but_activations_is_gathered(network):
    _, programs, _ = compiled(network, 8)
    kinds = {name: {c.kind for c in collectives(program.as_text())} for name, program in programs.items()}
    assert kinds["init"] <= {"all-to-all"} and kinds["start"] <= {"all-to-all"}, "homes deal the first units"
    assert kinds["round"] == {"all-to-all"}
    widths = {-(-width // 8) * 8 for width in NETWORKS[network]} | {CLASSES}
    activations = {4 * rows * width for rows in (BATCH, SAMPLE) for width in widths}
    sums = {2 * size for size in (4 * width for width in widths)}  # moments of a norm, both at once
    for c in collectives(programs["evaluation"].as_text()):
        if c.kind == "all-to-all":  # units of resident groups, to the subnetworks that are evaluated
            continue
        small = c.result_bytes <= 4 * 8 * CLASSES * BATCH and c.result_bytes not in {4 * width for width in widths}
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
        assert held[num_subnets] < 1.06 * whole / num_subnets + 8192, "parameters and moments; keys, counts and indices"
        assert programs["init"].memory_analysis().temp_size_in_bytes < 1.1 * whole / num_subnets
        start = programs["start"].memory_analysis()
        assert start.temp_size_in_bytes < 1.5 * whole / num_subnets
        if network != "uneven":  # a leaf none of whose axes the devices divide comes whole
            assert start.argument_size_in_bytes < 1.1 * whole / 3 / num_subnets
        assert programs["evaluation"].memory_analysis().temp_size_in_bytes < whole / num_subnets + 2**18
    assert held[8] < 1.1 * held[2] / 4
    assert worked[8] < 1.1 * worked[2] / 4 + 2**15


@pytest.mark.parametrize("network", ["two-layers", "three-layers", "one-layer"])
def test_the_compiled_round_sends_what_the_arithmetic_says_and_is_at_its_lower_bound(network):
    """Widths that S^2 divides, 8 devices."""
    algorithm, programs, _ = compiled(network, 8)
    leaves = algorithm.costs.leaves
    assert bytes_sent(programs["round"].as_text()) == sum(leaf.sent for leaf in leaves) == algorithm.costs.bytes_per_sync
    ways = {leaf.way for leaf in leaves if leaf.sent}
    assert ways == ({"travels"} if network == "one-layer" else {"travels", "home"})
    for leaf in leaves:
        assert leaf.sent <= {"travels": 1.02, "home": 2.05, "equal": 0}[leaf.way] * leaf.lower_bound, leaf


def test_losses_leave_the_round_sharded():
    _, programs, _ = compiled("one-layer", 8)
    assert programs["round"].output_shardings[1]["loss_SxJ"].spec == jax.sharding.PartitionSpec("subnet")


def of_features():
    data = graph_dataset(raw_graph(40), first_product="symmetric")
    return gcn(GCN((256, 128), CLASSES), 12, num_subnets=8), node_classification(0, 2), data.arrays("test"), 1


def of_filters():
    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    arrays = {"x": jnp.zeros((26, 4, 4, 2)), "y": jnp.zeros(26, jnp.int32)}
    return filters(ResNet((2,), CLASSES, width=64), image, num_subnets=8), TASK, arrays, 13


@pytest.mark.parametrize("make", [of_features, of_filters])
def test_dealt_features_and_filters_are_not_gathered_either(make):
    """Of the evaluation nothing but activations, of which none is as large as a dealt kernel; of the round what is shared."""
    split, task, arrays, batch_size = make()
    algorithm = ist(split, task, optax.sgd(0.1), batch_size=1, placement=sharded(subnet_mesh(8)))
    key = jax.device_put(jax.random.key(0), algorithm.sharding)
    init = jax.jit(algorithm.init).lower(key).compile()
    lay = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    state = jax.tree.map(lay, jax.eval_shape(algorithm.init, key), init.output_shardings)
    arrays, alive_S = jax.device_put((dict(arrays), jnp.ones(8, bool)), algorithm.sharding)
    many = len(arrays["y"]) if "y" in arrays else 1
    shards = jax.device_put(Shards(jnp.arange(many), jnp.zeros(8, int), jnp.full(8, many)), algorithm.sharding)
    round = algorithm.round.lower(state, View(arrays, shards, key), key, alive_S, steps=1).compile()
    whole = lambda state, arrays: evaluate(algorithm, task, state, {"test": arrays}, None, batch_size=batch_size, subnets=False)
    evaluation = jax.jit(whole).lower(state, arrays).compile()
    bytes_of = lambda *ways: [leaf.all_reduce / (2 * 7 / 8) for leaf in algorithm.costs.leaves if leaf.way in ways]
    found = collectives(round.as_text())
    assert {c.kind for c in found} == {"all-to-all", "all-reduce"}
    assert sum(c.result_bytes for c in found if c.kind == "all-reduce") == sum(bytes_of("shared"))
    kernels = [size for size in bytes_of("travels", "home") if size > 2**16]
    assert kernels and max(c.result_bytes for c in collectives(evaluation.as_text())) < min(kernels)
    assert evaluation.memory_analysis().temp_size_in_bytes < 4 * algorithm.costs.model_parameters
