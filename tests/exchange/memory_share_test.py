"""No device ever holds a full MLP: not in the initialisation, a round or the evaluation."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CLASSES, TASK, also_slowly, as_users_compile

from ist_jax import ist
from ist_jax.analysis.hlo import bytes_sent, collectives
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.sample_order import Shards, View
from ist_jax.data.base import strided_rows
from ist_jax.decompositions import mlp
from ist_jax.models import MLP
from ist_jax.training.evaluation import evaluate

FEATURES, EXAMPLES = 256, 64
BATCH, CALIBRATION = 13, 29  # no parameter has as many entries as the activations of these batches
NETWORKS = {
    "two-layers": (512, 512),
    "three-layers": (512, 256, 512),
    "one-layer": (512,),
    "uneven": (500, 510),
}


@functools.cache
def compiled(network, num_subnets):
    """(method, its programs by name, bytes of the data), with one subnetwork per device."""
    split = mlp(
        MLP(NETWORKS[network], CLASSES),
        jax.ShapeDtypeStruct((1, FEATURES), jnp.float32),
        num_subnets=num_subnets,
    )
    place = sharded(subnet_mesh(num_subnets))
    method = ist(split, TASK, optax.adam(1e-3), batch_size=4, placement=place, opt_state="carry")
    put = functools.partial(jax.device_put, device=method.sharding)
    arrays = put({"x": jnp.zeros((EXAMPLES, FEATURES)), "y": jnp.zeros(EXAMPLES, jnp.int32)})
    shards = Shards(
        jnp.arange(EXAMPLES), jnp.zeros(num_subnets, int), jnp.full(num_subnets, EXAMPLES)
    )
    key, weight_S = put(jax.random.key(0)), put(jnp.ones(num_subnets))
    init = jax.jit(method.init).lower(key).compile()
    shapes = jax.eval_shape(method.init, key)
    start = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=method.start_sharding(leaf)
        ),
        jax.eval_shape(method.end, shapes),
    )
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        init.output_shardings,
    )
    view = View(arrays, put(shards), key)
    options = dict(batch_size=BATCH, subnets=True)
    evaluation = jax.jit(
        lambda state, arrays, calibration: evaluate(
            method, TASK, state, {"test": arrays}, calibration, **options
        )
    )
    programs = {
        "init": init,
        "start": jax.jit(method.init).lower(key, start._replace(opt_state=None)).compile(),
        "round": method.round.lower(state, view, key, weight_S, steps=3).compile(),
        "evaluation": evaluation.lower(
            state, arrays, put(strided_rows(arrays, CALIBRATION))
        ).compile(),
    }
    return method, programs, 4 * EXAMPLES * (FEATURES + 1)


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_nothing_but_activations_is_gathered(network):
    _, programs, _ = compiled(network, 8)
    kinds = {
        name: {c.kind for c in collectives(program.as_text())} for name, program in programs.items()
    }
    assert kinds["init"] <= {"all-to-all"} and kinds["start"] <= {"all-to-all"}, (
        "homes send the first units"
    )
    assert kinds["round"] == {"all-to-all"}
    widths = {-(-width // 8) * 8 for width in NETWORKS[network]} | {CLASSES}
    activations = {4 * rows * width for rows in (BATCH, CALIBRATION) for width in widths}
    sums = {2 * 4 * width for width in widths}  # both moments of a norm together
    for c in collectives(programs["evaluation"].as_text()):
        if c.kind == "all-to-all":  # home-sharded units, to the subnetworks that are evaluated
            continue
        small = c.result_bytes <= 4 * 8 * CLASSES * BATCH and c.result_bytes not in {
            4 * width for width in widths
        }
        assert c.result_bytes in activations | sums or small, f"{c} is no activation"


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_parameters_gradients_and_optimizer_state_per_device_fall_as_one_over_s(network):
    """With carried Adam, three copies of the model are stored, 1 / S of each on a device."""
    held, worked = {}, {}
    for num_subnets in (2, 8):
        method, programs, data = compiled(network, num_subnets)
        memory = programs["round"].memory_analysis()
        held[num_subnets] = memory.argument_size_in_bytes - data
        worked[num_subnets] = memory.temp_size_in_bytes
        full = 3 * 4 * method.costs.model_parameters
        assert held[num_subnets] < 1.06 * full / num_subnets + 8192, (
            "parameters and moments; keys, counts and indices"
        )
        assert programs["init"].memory_analysis().temp_size_in_bytes < 1.1 * full / num_subnets
        start = programs["start"].memory_analysis()
        assert start.temp_size_in_bytes < 1.5 * full / num_subnets
        if network != "uneven":  # the devices divide no axis of some leaves, which are replicated
            assert start.argument_size_in_bytes < 1.1 * full / 3 / num_subnets
        assert (
            programs["evaluation"].memory_analysis().temp_size_in_bytes < full / num_subnets + 2**18
        )
    assert held[8] < 1.1 * held[2] / 4
    assert worked[8] < 1.1 * worked[2] / 4 + 2**15


@pytest.mark.parametrize(
    "network", also_slowly(["two-layers"], ["two-layers", "three-layers", "one-layer"])
)
def test_the_compiled_round_sends_what_the_arithmetic_says_and_is_at_its_lower_bound(network):
    """Widths that S^2 divides, 8 devices."""
    method, programs, _ = compiled(network, 8)
    leaves = method.costs.leaves
    assert (
        bytes_sent(programs["round"].as_text())
        == sum(leaf.sent for leaf in leaves)
        == method.costs.bytes_per_sync
    )
    kinds = {leaf.kind for leaf in leaves if leaf.sent}
    assert kinds == (
        {"holder-sharded"} if network == "one-layer" else {"holder-sharded", "home-sharded"}
    )
    for leaf in leaves:
        assert (
            leaf.sent
            <= {"holder-sharded": 1.02, "home-sharded": 2.05, "equal": 0}[leaf.kind]
            * leaf.lower_bound
        ), leaf


def test_losses_leave_the_round_sharded():
    _, programs, _ = compiled("one-layer", 8)
    assert programs["round"].output_shardings[1]["loss_SxJ"].spec == jax.sharding.PartitionSpec(
        "subnet"
    )


@pytest.mark.slow
def test_the_program_that_users_run_holds_and_sends_the_same():
    """The other tests compile without most optimisations (conftest.py)."""
    with as_users_compile():
        method, programs, data = compiled.__wrapped__("three-layers", 8)
    assert bytes_sent(programs["round"].as_text()) == method.costs.bytes_per_sync
    assert {c.kind for c in collectives(programs["round"].as_text())} == {"all-to-all"}
    held = programs["round"].memory_analysis().argument_size_in_bytes - data
    assert held < 1.06 * 3 * 4 * method.costs.model_parameters / 8 + 8192
    assert (
        programs["evaluation"].memory_analysis().temp_size_in_bytes
        < 3 * 4 * method.costs.model_parameters / 8 + 2**18
    )
