"""Batches with different numbers of examples, or none: clusters of a graph."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CLASSES,
    FEATURES,
    ROOT,
    also_slowly,
    graph_dataset,
    one_round,
    raw_graph,
    rounds,
)

from ist_jax import LoopConfig, Phase, data_parallel, decompose, local_sgd, run
from ist_jax.core.placement import looped, sharded, subnet_mesh, vmapped
from ist_jax.core.sample_order import draw
from ist_jax.decompositions.graphs import example_graph
from ist_jax.tasks import node_classification
from ist_jax.training.local_losses import LocalLosses

TASK = node_classification()
NODES = 400


class Linear:
    """Logits of a node's own features, so that they do not depend on how the graph is cut."""

    def __init__(self, scale):
        self.scale = scale

    def init(self, key, example):
        return {"kernel": self.scale * jax.random.normal(key, (FEATURES, CLASSES))}

    def apply(self, params, inputs, *, key=None, stats=None):
        return inputs.features @ params["kernel"]

    def measure(self, params, inputs):
        return {}


def split(scale, num_workers):
    model = Linear(scale)
    return decompose(
        [("kernel", None)],
        {},
        num_subnets=num_workers,
        full=model,
        subnet=model,
        example=example_graph(FEATURES),
    )


@functools.cache
def graph(clusters):
    """400 nodes, a quarter of them for training: of 100 clusters, many have none of these."""
    part = np.arange(NODES) % 4
    splits = dict(train_N=part == 0, validation_N=part == 1, test_N=part == 2)
    return graph_dataset(raw_graph(NODES, num_classes=CLASSES, **splits), clusters=clusters)


METHODS = {
    "data_parallel": lambda split, tx: data_parallel(split, TASK, tx, num_workers=2, batch_size=1),
    "local_sgd": lambda split, tx: local_sgd(split, TASK, tx, num_workers=2, batch_size=1),
}


@pytest.mark.parametrize("clusters", also_slowly([100], [1, 4, 100]))
@pytest.mark.parametrize("name", METHODS)
def test_the_train_loss_does_not_depend_on_how_the_graph_is_cut(name, clusters):
    """Nothing is learned, and all classes are equally likely: ln C. Empty clusters counted as 0."""
    method = METHODS[name](split(0.0, 2), optax.sgd(1e-9))
    phase, config = Phase(method, 100, 1), LoopConfig(eval_every=10)
    rows = run([phase], TASK, graph(clusters), config).history
    losses = [row["train"]["loss"] for row in rows if row["train"]]
    np.testing.assert_allclose(losses, math.log(CLASSES), rtol=1e-5)
    assert (len(losses) < len(rows)) == (clusters == 100), "a round may have no example"
    for row in rows:
        for loss in row.get("train_subnets", {"loss": []})["loss"]:
            assert loss is None or loss == pytest.approx(math.log(CLASSES), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_batches_of_the_whole_graph_are_not_weighed(name):
    """So programs and bits of runs with one cluster are those of before."""
    method = METHODS[name](split(1.0, 2), optax.sgd(0.1))
    assert rounds(method, 1, 2, graph(1))[1].keys() == {"loss_SxJ"}
    _, metrics = rounds(method, 1, 2, graph(10))
    assert metrics.keys() == {"loss_SxJ", "weight_SxJ"} and metrics["weight_SxJ"].shape == (2, 2)


def one_by_one(method, data, count):
    """(state before, state after, weights) of rounds of one step, on the host."""
    state = method.fresh(ROOT)
    view = next(data.views(jax.random.key(5), method.num_workers, method.sharding, [range(1)]))
    copy = lambda state: jax.tree.map(np.array, jax.device_get(state))  # a round reuses memory
    for number in range(count):
        before = copy(state)
        key = jax.random.fold_in(ROOT, number)
        state, metrics = one_round(method, state, view, key, np.ones(method.num_workers), 1)
        yield before, copy(state), np.asarray(metrics["weight_SxJ"])[:, 0]


@pytest.mark.parametrize("opt_state", ["reset", "carry", "local"])
def test_an_optimizer_that_accumulates_is_refused_where_batches_may_be_empty(opt_state):
    """With 'reset' and 'carry', an empty batch lost what the others had accumulated."""
    tx = optax.MultiSteps(optax.sgd(0.1), 2)
    options = dict(num_workers=2, batch_size=1, opt_state=opt_state)
    method = local_sgd(split(1.0, 2), TASK, tx, **options)
    rounds(method, 1, 2, graph(1))
    if opt_state == "local":
        rounds(method, 1, 2, graph(10))
        return
    with pytest.raises(ValueError, match="accumulates gradients over several steps loses some if"):
        rounds(method, 1, 2, graph(10))


def test_a_worker_without_examples_does_not_take_part_in_the_average():
    """It averaged in what it had, so that the others moved less far."""
    method, data = (
        local_sgd(split(1.0, 4), TASK, optax.sgd(0.1), num_workers=4, batch_size=1),
        graph(100),
    )
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    train = lambda weight_S: one_round(method, method.fresh(ROOT), view, ROOT, weight_S, 1)
    state, metrics = train(np.ones(4))
    has_examples_S = np.asarray(metrics["weight_SxJ"]).sum(axis=1) > 0
    assert 0 < has_examples_S.sum() < 4
    expected, _ = train(has_examples_S.astype(float))
    jax.tree.map(np.testing.assert_array_equal, state.store, expected.store)


def is_equal(*trees):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), *trees)))


ADAMW = optax.adamw(lambda step: 0.1, weight_decay=0.1)


@pytest.mark.parametrize("name", ["local_sgd", "data_parallel"])
def test_a_step_on_a_batch_without_examples_changes_no_parameter_and_no_moment(name):
    """Weight decay and momentum went on. The schedule does go on: it counts all local steps."""
    options = dict(num_workers=1, batch_size=1)
    if name == "local_sgd":
        method = local_sgd(split(1.0, 1), TASK, ADAMW, opt_state="local", **options)
    else:
        method = data_parallel(split(1.0, 1), TASK, ADAMW, **options)
    empty = []
    for number, (before, after, weight_S) in enumerate(one_by_one(method, graph(100), 30)):
        empty.append(not weight_S.any())
        assert is_equal(before.store, after.store) == empty[-1]
        (adam, *_), (adam_then, *_, schedule) = before.opt_state, after.opt_state
        assert is_equal(adam, adam_then) == empty[-1], "count, mean and variance"
        assert int(np.max(schedule.count)) == number + 1
    assert {*empty} == {True, False}


def test_carried_counts_are_equal_in_all_subnetworks_though_some_have_no_examples():
    """They share one state; each device has the count of its own subnetwork."""
    options = dict(num_workers=4, batch_size=1, opt_state="carry")
    place = sharded(subnet_mesh(4))
    method = local_sgd(split(1.0, 4), TASK, ADAMW, placement=place, **options)
    state, metrics = rounds(method, 1, 10, graph(100))
    count = state.store.opt_state[0].count
    assert [int(shard.data) for shard in count.addressable_shards] == [10] * 4
    with_examples_S = (np.asarray(metrics["weight_SxJ"]) > 0).sum(axis=1)
    assert len({*with_examples_S}) > 1, "each had another number of steps with examples"


PLACES = {"looped": looped, "vmapped": vmapped, "sharded": lambda: sharded(subnet_mesh(2))}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_data_parallel_takes_the_gradient_of_the_mean_over_all_examples_of_a_step(place):
    data, options = graph(10), dict(num_workers=4, batch_size=1, placement=PLACES[place]())
    method = data_parallel(split(1.0, 4), TASK, optax.sgd(1.0), **options)
    view = next(data.views(jax.random.key(5), 4, method.sharding, [range(1)]))
    (before, after, weight_S), *_ = one_by_one(method, data, 1)
    batches = [
        TASK.batch(view.arrays, draw(view, jnp.int32(s), jnp.int32(0), 1), None) for s in range(4)
    ]

    def mean(params, chosen):
        """Over the training nodes of some of the batches."""
        totals = [(batch["counted"] * _losses(params, batch)).sum() for batch in chosen]
        return sum(totals) / sum(batch["counted"].sum() for batch in chosen)

    gradient = jax.grad(mean)(before.store, batches)
    moved = jax.tree.map(lambda a, b: a - b, before.store, after.store)
    np.testing.assert_allclose(moved["kernel"], gradient["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weight_S, [batch["counted"].sum() for batch in batches])
    of_each = [jax.grad(mean)(before.store, [batch])["kernel"] for batch in batches]
    assert np.abs(np.mean(of_each, axis=0) - gradient["kernel"]).max() > 1e-3, "weights matter"


def _losses(params, batch):
    logits_NxC = Linear(1.0).apply(params, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits_NxC, batch["y"])


def test_losses_are_averaged_over_examples():
    loss_SxJ, weight_SxJ = np.array([[1.0, 4.0], [np.nan, 0.0]]), np.array([[3.0, 1.0], [0.0, 0.0]])
    losses = LocalLosses.of({"loss_SxJ": _array(loss_SxJ), "weight_SxJ": _array(weight_SxJ)})
    assert losses.metrics == {"loss": pytest.approx(7 / 4)}
    assert losses.by_worker == [pytest.approx(7 / 4), None]
    assert np.isfinite(losses.loss_SxJ).all(), "the loss of no example says nothing"
    assert LocalLosses(loss_SxJ[1:, 1:], weight_SxJ[1:, 1:]).metrics == {}
    plain = LocalLosses.of({"loss_SxJ": _array(loss_SxJ[:1])})
    assert plain.metrics == {"loss": 2.5} and plain.by_worker == [2.5]


def _array(values):
    return jnp.asarray(values, jnp.float32)
