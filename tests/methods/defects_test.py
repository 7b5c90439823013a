"""One test per defect of the authors' releases, showing that it is absent here.

B1 to B5 are of IST_Release @2f24b9b, G2 is of the GIST release (G3 is in graphs_test.py), X1 and X2
are of ResIST_release @6d96f5a.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BATCH,
    CLASSES,
    DECOMPOSITIONS,
    ROOT,
    SGD,
    TASK,
    also_slowly,
    chain,
    dataset,
    graph_dataset,
    one_round,
    params_of,
    rounds,
    two_groups,
)
from laws import plain_training

from ist_jax import LoopConfig, Phase, ist, run
from ist_jax.core.keys import named_key
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.sample_order import draw
from ist_jax.data.base import strided_rows
from ist_jax.tasks import node_classification
from ist_jax.training.evaluation import evaluate


@pytest.mark.parametrize("num_devices", also_slowly([4], [0, 4]))
def test_b1_every_row_of_the_middle_kernel_is_trained_with_its_own_unit(num_devices):
    """B1: fc2 rows beyond the first share were never trained, and met the wrong bn2/fc3 units."""
    place = {"placement": sharded(subnet_mesh(num_devices))} if num_devices else {}
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH, **place)
    before = params_of(method, method.fresh(ROOT))
    state, _ = rounds(method, 1)
    after, indices = params_of(method, state), jax.device_get(state.indices)
    changed = after["hidden_1"]["kernel"] != before["hidden_1"]["kernel"]
    for s in range(4):
        rows, columns = indices["hidden_0"][s], indices["hidden_1"][s]
        others = np.setdiff1d(np.arange(24), columns)
        assert changed[np.ix_(rows, columns)].mean() > 0.9, (
            "the block of a subnetwork's rows and columns is trained"
        )
        assert not changed[np.ix_(rows, others)].any(), "and no other"
    for name, leaf in (("hidden_0", "kernel"), ("norm_1", "scale"), ("output", "kernel")):
        axis = 1 if name == "hidden_0" else 0
        moved = (after[name][leaf] != before[name][leaf]).reshape(*after[name][leaf].shape)
        units = moved.any(axis=tuple(a for a in range(moved.ndim) if a != axis))
        assert units.mean() > 0.9, "every unit of every group has a holder that trained it"
    state, _ = rounds(method, 30, 1)
    kernel = params_of(method, state)["hidden_1"]["kernel"]
    assert (kernel != before["hidden_1"]["kernel"]).all(axis=1).mean() > 0.5
    assert (kernel != before["hidden_1"]["kernel"]).any(axis=1).all(), (
        "every row is trained in the end"
    )


def test_b2_units_are_initialised_differently_and_workers_see_different_batches():
    """B2: all shards were copies of the same neurons; all workers saw the same mini-batches."""
    method, data = ist(two_groups(4), TASK, SGD, batch_size=BATCH), dataset()
    kernel = params_of(method, method.fresh(ROOT))["hidden_0"]["kernel"]
    assert len(np.unique(kernel, axis=1).T) == kernel.shape[1]
    view = next(data.views(jax.random.key(0), 4, method.sharding, [range(1)]))
    seen = [tuple(np.asarray(draw(view, jnp.int32(s), jnp.int32(0), BATCH))) for s in range(4)]
    assert len(set(seen)) == 4


def test_b3_the_last_local_step_of_a_round_is_kept():
    """B3: the push came after H - 1 steps, and the last was thrown away."""
    decomposition, data = two_groups(1), dataset()
    method = ist(decomposition, TASK, SGD, batch_size=BATCH)
    state, _ = rounds(method, 2, 3, data)
    params = decomposition.init(named_key(ROOT, "init"))
    by_hand = plain_training(decomposition, SGD, data, 2, 3, params)
    too_few = plain_training(decomposition, SGD, data, 2, 2, params)
    chex.assert_trees_all_close(params_of(method, state), by_hand, rtol=1e-5, atol=1e-6)
    assert (
        max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), by_hand, too_few)
            )
        )
        > 1e-3
    )


@pytest.mark.slow
def test_b4_the_trailing_steps_are_kept_when_a_round_does_not_fill():
    """B4: steps after the last full round of an epoch were lost."""
    method, data = ist(two_groups(2), TASK, SGD, batch_size=BATCH), dataset()
    results = run([(method, 7 * 2 * BATCH, 3)], TASK, data, LoopConfig(eval_every=0))
    assert results.summary["local_steps"] == 7 and results.summary["rounds"] == 3
    assert results.summary["samples_seen"] == 7 * 2 * BATCH
    shorter = run([(method, 6 * 2 * BATCH, 3)], TASK, data, LoopConfig(eval_every=0))
    assert (
        jax.tree.reduce(
            max,
            jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), results.params, shorter.params),
        )
        > 1e-5
    )


@pytest.mark.slow
def test_b5_a_prediction_does_not_depend_on_the_test_sets_size_or_cut():
    """B5: a test batch of one example crashed; accuracy depended on how batches were composed."""
    method, data = ist(two_groups(2), TASK, SGD, batch_size=BATCH), dataset()
    state, _ = rounds(method, 3)
    sample = TASK.batch(data.train, jnp.arange(64), None)
    predict = jax.jit(method.predictor(state, sample).__call__)
    batch = lambda index: TASK.batch(data.test, jnp.asarray(index), None)
    together = predict(batch(range(60)))
    assert together.shape == (60, CLASSES)
    for index in ([0], [59], [3, 17], list(range(30))):
        np.testing.assert_allclose(
            predict(batch(index)),
            together[jnp.asarray(index)],
            rtol=1e-4,
            atol=1e-5,
        )
    measured = []
    for batch_size in (1, 7, 60):
        options = dict(batch_size=batch_size, subnets=False)
        measured.append(
            evaluate(
                method, TASK, state, {"test": data.test}, strided_rows(data.train, 64), **options
            )["test"]
        )
    for result in measured:
        assert result["accuracy"] == measured[0]["accuracy"]
        np.testing.assert_allclose(result["loss"], measured[0]["loss"], rtol=1e-4)


def test_the_authors_protocol_normalises_every_test_batch_by_itself():
    method, data = ist(two_groups(2), TASK, SGD, batch_size=BATCH), dataset()
    state, _ = rounds(method, 3)

    def cut(b):
        return evaluate(method, TASK, state, {"test": data.test}, None, batch_size=b, subnets=False)

    losses = [float(cut(b)["test"]["loss"]) for b in (7, 60)]
    assert abs(losses[0] - losses[1]) > 1e-4, "its result depends on how the test set is cut"


@pytest.mark.parametrize("num_devices", also_slowly([2], [0, 2]))
def test_g2_the_output_bias_that_sub_gcns_trained_is_averaged_and_written_back(num_devices):
    """G2: the merge left out the output layer's bias: it stayed 0, though sub-GCNs trained it."""
    place = {"placement": sharded(subnet_mesh(num_devices))} if num_devices else {}
    split, data = DECOMPOSITIONS["gcn-uneven"](4), graph_dataset(first_product="symmetric")
    method = ist(split, node_classification(), SGD, batch_size=1, **place)
    assert not params_of(method, method.fresh(ROOT))["output"]["bias"].any()
    state, _ = rounds(method, 1, 3, data)
    alone = []
    for worker in range(4):  # the others are lost: what is written back is this one's
        view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
        key = jax.random.fold_in(ROOT, 0)
        one, _ = one_round(method, method.fresh(ROOT), view, key, np.arange(4) == worker)
        alone.append(params_of(method, one)["output"]["bias"])
    assert min(np.abs(bias).max() for bias in alone) > 1e-3 and np.std(alone, axis=0).max() > 1e-4
    np.testing.assert_allclose(
        params_of(method, state)["output"]["bias"], np.mean(alone, axis=0), rtol=1e-4, atol=1e-6
    )


def test_x1_no_repartition_reads_stale_blocks():
    """X1: an epoch began from stale copies; steps since the last synchronisation were lost.

    Passes of 7 steps, rounds of 5: a pass ends inside a round. Every round starts from what the one
    before has trained.
    """
    decomposition = chain(4)
    method = ist(decomposition, TASK, SGD, batch_size=BATCH)
    data = dataset(num_train=7 * 4 * BATCH)
    state, _ = rounds(method, 1, 5, data)
    for r in range(1, 4):
        before = params_of(method, state), jax.device_get(state.indices)
        weight_S = np.zeros(4)  # nothing of this round is written back
        view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
        untouched, _ = one_round(
            method, jax.tree.map(jnp.copy, state), view, jax.random.fold_in(ROOT, r), weight_S, 5
        )
        assert (np.asarray(untouched.indices["block"]) != before[1]["block"]).any(), (
            "the blocks were assigned anew"
        )
        jax.tree.map(np.testing.assert_array_equal, params_of(method, untouched), before[0])
        state, _ = rounds(method, r + 1, 5, data)


@pytest.mark.slow
def test_x2_a_round_may_be_longer_than_a_pass():
    """X2: H beyond the first epoch was an IndexError."""
    method, data = ist(chain(4), TASK, SGD, batch_size=BATCH), dataset()
    steps = 3 * data.num_train // (4 * BATCH)
    results = run(
        [Phase(method, 2 * steps * 4 * BATCH, steps)], TASK, data, LoopConfig(eval_every=0)
    )
    assert results.summary["rounds"] == 2 and results.summary["local_steps"] == 2 * steps
    assert results.summary["last"]["test"]["accuracy"] > 0.5
