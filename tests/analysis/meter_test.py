"""What the meter reads from compiled programs, against arithmetic."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH, METHODS, SGD, TASK, also_slowly, dataset, placements, two_groups

from ist_jax import LoopConfig, data_parallel, ist, run
from ist_jax.analysis import machine, meter
from ist_jax.core.trees import leaf_names
from ist_jax.decompositions import blocks, mlp, replicated
from ist_jax.models import MLP, PreActResNet


def mlp_flops(batch, widths):
    """Those of three matrix products per layer, or two if no input gradient is needed."""
    products = [2 * batch * a * b for a, b in itertools.pairwise(widths)]
    return 3 * sum(products) - products[0]


@pytest.mark.parametrize("num_subnets", also_slowly([4], [1, 4]))
def test_flops_of_a_local_step_of_an_mlp_are_its_matrix_products(num_subnets):
    split = mlp(
        MLP((512, 256), 10), jax.ShapeDtypeStruct((1, 300), jnp.float32), num_subnets=num_subnets
    )
    for place in ("looped", "vmapped"):
        method = ist(split, TASK, optax.sgd(0.1), batch_size=32, placement=placements()[place]())
        state = jax.eval_shape(method.init, jax.random.key(0))
        arrays = {"x": jnp.zeros((64, 300)), "y": jnp.zeros(64, jnp.int32)}
        view = next(
            dataset().views(jax.random.key(0), num_subnets, method.sharding, [range(1)])
        )._replace(arrays=arrays)
        flops = meter.flops_per_local_step(method, state, view, jax.random.key(0))
        expected = mlp_flops(32, [300, 512 // num_subnets, 256 // num_subnets, 10])
        assert expected < flops < 1.1 * expected, (
            "norms, activations and the update are a few per cent more"
        )


@pytest.mark.parametrize("num_subnets", [1, 4])
def test_flops_count_every_block_of_a_loop_over_blocks(num_subnets):
    """Those of 8 or 2 blocks of two 3 x 3 convolutions with 16 channels on 4 x 4 pixels."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
    split = blocks(PreActResNet((1, 9), 5, width=8), image, num_subnets=num_subnets, stages=(2,))
    method = ist(split, TASK, optax.sgd(0.1), batch_size=16)
    arrays = {"x": jnp.zeros((64, 8, 8, 2)), "y": jnp.zeros(64, jnp.int32)}
    view = next(
        dataset().views(jax.random.key(0), num_subnets, method.sharding, [range(1)])
    )._replace(arrays=arrays)
    flops = meter.flops_per_local_step(
        method, jax.eval_shape(method.init, jax.random.key(0)), view, jax.random.key(0)
    )

    def convolution(pixels, size, inputs, outputs):
        return 2 * 16 * pixels**2 * size**2 * inputs * outputs

    shared = (
        2 * convolution(8, 3, 8, 8)
        + convolution(4, 3, 8, 16)
        + convolution(4, 1, 8, 16)
        + convolution(4, 3, 16, 16)
    )
    assigned = (8 // num_subnets) * 2 * convolution(4, 3, 16, 16)
    expected = 2 * convolution(8, 3, 2, 8) + 3 * (shared + assigned)
    # sums at the border have fewer than 9 pixels, 0.69 of them on 4 x 4; norms and updates count
    assert 0.69 * expected < flops < 1.2 * expected


def test_a_loop_without_floating_point_operations_counts_nothing():
    def f(x, order):
        def step(i, _):
            return (order[i], None)

        return x @ x + jax.lax.scan(step, jnp.int32(0), length=3)[0]

    given = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.int32)
    assert 2 * 4**3 <= meter._flops(jax.make_jaxpr(f)(*given)) < 3 * 4**3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_metered(name, tmp_path):
    method = METHODS[name](4, placements()["sharded-4"]())
    summary = run([(method, 6 * 4 * BATCH, 3)], TASK, dataset(), LoopConfig(eval_every=0)).summary
    assert summary["flops_per_local_step_per_device"] > 1000
    assert summary["flops_per_device"] == 6 * summary["flops_per_local_step_per_device"]
    assert summary["energy_estimate_joules_per_device"]["compute"] > 0
    memory = summary["memory_bytes_per_device"]
    assert memory["peak"] > memory["state"] + memory["data"]
    assert 0 <= memory["activations"] <= memory["temporary"]
    sent = summary["bytes_per_sync_per_device"]
    small = 8 * 64  # a lost worker's share, a count: a few scalars beside the parameters
    assert sent["arithmetic"] <= sent["compiled"] <= sent["arithmetic"] + small
    leaves = summary["bytes_per_sync_per_leaf"]
    assert sum(leaf["sent"] for leaf in leaves.values()) == sent["arithmetic"]
    params = {name for name in leaves if not name.startswith(("opt_state/", "outer_state/"))}
    assert params == (set() if name == "ensemble" else set(leaf_names(method.shapes())))
    moves = {"ist-carry": "opt_state", "ist-copies": "opt_state", "ist-outer": "outer_state"}
    assert (
        {leaf.split("/")[0] for leaf in leaves.keys() - params} == {moves[name]}
        if name in moves
        else params == leaves.keys()
    )


@pytest.mark.slow
def test_compiled_bytes_are_none_where_workers_share_a_device():
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH, placement=placements()["sharded-2"]())
    summary = run([(method, 3 * 4 * BATCH, 3)], TASK, dataset(), LoopConfig(eval_every=0)).summary
    assert summary["bytes_per_sync_per_device"]["compiled"] is None


@pytest.mark.slow
def test_activations_are_counted_separately_and_grow_with_the_batch():
    bytes_by_batch, data = {}, dataset(16 * BATCH)
    for batch in (BATCH, 16 * BATCH):
        method = ist(
            two_groups(4), TASK, SGD, batch_size=batch, placement=placements()["sharded-4"]()
        )
        summary = run([(method, 3 * 4 * batch, 3)], TASK, data, LoopConfig(eval_every=0)).summary
        bytes_by_batch[batch] = summary["memory_bytes_per_device"]
    grown = {
        name: bytes_by_batch[16 * BATCH][name] - bytes_by_batch[BATCH][name]
        for name in ("state", "data", "activations")
    }
    inputs = 4 * 15 * BATCH * data.spec.example_shape[0]
    assert grown["state"] == grown["data"] == 0 and grown["activations"] >= inputs


def test_the_state_of_data_parallel_is_the_full_model_on_every_device():
    full = replicated(two_groups(4), 4)
    method = data_parallel(
        full, TASK, SGD, num_workers=4, batch_size=BATCH, placement=placements()["sharded-4"]()
    )
    summary = run([(method, 3 * 4 * BATCH, 3)], TASK, dataset(), LoopConfig(eval_every=0)).summary
    assert summary["memory_bytes_per_device"]["state"] == 2 * 4 * method.costs.model_parameters, (
        "parameters and momentum"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ist-carry", "local-sgd", "ensemble", "data-parallel"])
def test_a_timed_synchronisation_leaves_the_run_as_it_is(name):
    timed, plain = (
        run(
            [(METHODS[name](4), 6 * 4 * BATCH, 3)],
            TASK,
            dataset(),
            LoopConfig(eval_every=0, time_syncs=time_syncs),
        )
        for time_syncs in (True, False)
    )
    jax.tree.map(np.testing.assert_array_equal, timed.params, plain.params)
    meets = name in ("ist-carry", "local-sgd")
    assert (
        (timed.summary["seconds_per_sync"] or 0) > 0
        if meets
        else timed.summary["seconds_per_sync"] is None
    )
    assert plain.summary["seconds_per_sync"] is None


def test_a_synchronisation_is_not_timed_where_memory_has_no_room_for_a_copy(monkeypatch):
    """It is refused before a copy: a host that runs out of memory kills the process silently."""
    method, data = METHODS["ist"](4), dataset()
    state = method.fresh(jax.random.key(0))
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    given = (method, state, view, jax.random.key(0), jnp.ones(4))
    assert meter.seconds_per_sync(*given) > 0
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 1000)
    monkeypatch.setattr(jnp, "copy", None)
    assert meter.seconds_per_sync(*given) is None
