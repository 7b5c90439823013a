"""Batches of graphs, and training on them, against the full graphs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CLASSES,
    FEATURES,
    FIRST_PRODUCTS,
    ROOT,
    graph_dataset,
    placements,
    random_params,
    raw_graph,
    rounds,
)
from graph_cases import (
    DENSE,
    RAW,
    TASK,
    X,
    assert_close,
    device_arrays,
    random_weights,
    task_loss,
)

from ist_jax import ist, run
from ist_jax.core.keys import named_key
from ist_jax.core.sample_order import draw
from ist_jax.data import GraphOptions, make_graph_dataset
from ist_jax.data.splits import disjoint
from ist_jax.decompositions import gat, gcn, sage
from ist_jax.models import GAT, GCN, GraphSAGE
from ist_jax.models.spmm import spmm
from ist_jax.training.evaluation import evaluate
from ist_jax.training.loop import LoopConfig

MODELS = (GCN((6, 20), CLASSES), GraphSAGE((6, 9), CLASSES), GAT((4,), CLASSES, heads=2))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_union_of_clusters_is_the_graph_of_its_nodes_and_padding_changes_nothing(model):
    data = graph_dataset(clusters=5)
    params, _ = random_weights(model)
    arrays = device_arrays(data, "train")
    for clusters in ([1, 3], [4], [0, 2, 3, 4]):
        batch = jax.jit(lambda index: TASK.batch(arrays, index, None))(jnp.array(clusters))
        is_node = np.asarray(batch["x"].mask_N) > 0
        nodes = np.flatnonzero(np.isin(arrays["cluster_N"], clusters))
        x = np.asarray(arrays["graph"].features)[nodes]
        number = {tuple(row): i for i, row in enumerate(x)}
        order = [number[tuple(row)] for row in np.asarray(batch["x"].features)[is_node]]
        assert len(is_node) >= len(nodes) == is_node.sum()
        assert sorted(order) == list(range(len(nodes)))
        alone = isolated_graph(nodes, arrays, type(model))
        with_products = batch["x"]._replace(features=first_product(batch["x"], type(model)))
        logits = model.apply({"params": params}, with_products)[is_node]
        expected = model.apply({"params": params}, alone)[jnp.array(order)]
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def first_product(graph, kind):
    """The first product of a model of this kind, computed on the device."""
    if kind is GAT:
        return graph.features
    if kind is GraphSAGE:
        share = (1 / jnp.maximum(graph.degree_N, 1))[:, None]
        return jnp.stack([graph.features, spmm(graph, graph.features) * share], axis=1)
    scale = (graph.mask_N / jnp.sqrt(graph.degree_N + 1))[:, None]
    return scale * (spmm(graph, scale * graph.features) + scale * graph.features)


def isolated_graph(nodes, arrays, kind):
    """The induced graph of `nodes`, built from the nodes and edges of the dense matrix."""
    features = np.asarray(arrays["graph"].features)[nodes]
    raw_node = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in features]
    edges = np.stack(np.nonzero(DENSE[np.ix_(raw_node, raw_node)]))
    splits = np.eye(3, len(nodes), dtype=bool)
    raw = RAW._replace(
        features_NxD=X[raw_node], labels_N=np.zeros(len(nodes), int), edges_2xE=edges
    )
    raw = raw._replace(train_N=splits[0], validation_N=splits[1], test_N=splits[2])
    return graph_dataset(raw, first_product=FIRST_PRODUCTS[kind]).arrays("test")["graph"]


@pytest.mark.slow
def test_all_clusters_are_the_full_graph_and_a_pass_covers_every_training_node_once():
    data = graph_dataset(clusters=5)
    arrays = device_arrays(data, "train")
    whole = TASK.batch(arrays, jnp.arange(5), None)
    assert (
        whole["x"].features.shape == X.shape and float(whole["counted"].sum()) == RAW.train_N.sum()
    )
    view = next(
        data.views(ROOT, 2, jax.sharding.SingleDeviceSharding(jax.devices()[0]), [range(1)])
    )
    seen = [
        [int(c) for p in range(5) for c in draw(view, jnp.int32(w), jnp.int32(p), 1)]
        for w in (0, 1)
    ]
    assert sorted(seen[0]) == sorted(seen[1]) == [0, 1, 2, 3, 4] and seen[0] != seen[1], (
        "workers see different clusters"
    )
    counted = sum(float(TASK.batch(arrays, jnp.array([c]), None)["counted"].sum()) for c in seen[0])
    assert counted == RAW.train_N.sum()


@pytest.mark.slow
def test_a_cluster_that_is_named_twice_counts_once():
    arrays = device_arrays(graph_dataset(clusters=5), "train")
    once, twice = (
        TASK.batch(arrays, jnp.array(clusters), None) for clusters in ([1, 3], [3, 1, 3])
    )
    for field in (
        lambda b: b["counted"].sum(),
        lambda b: b["x"].degree_N.sum(),
        lambda b: b["x"].mask_N.sum(),
    ):
        assert float(field(once)) == float(field(twice)) > 0


def path_graph():
    """A path of 40 nodes, of which the first three train."""
    node = np.arange(40)
    splits = dict(train_N=node < 3, validation_N=node == 4, test_N=node == 5)
    edges = np.stack([node[:-1], node[1:]])
    return raw_graph(labels_N=np.where(node < 3, node, 0), edges_2xE=edges, **splits)


@pytest.mark.slow
def test_training_without_far_nodes_has_the_loss_and_the_gradient_of_the_full_graph():
    """Also with sparse features. First products and degrees are those of the full graph."""
    raw = path_graph()
    model, results = GCN((8, 6), 3), []
    for options in (
        dict(layers=None),
        dict(layers=3),
        dict(layers=None, sparse_below=2.0),
        dict(layers=3, sparse_below=2.0),
    ):
        arrays = device_arrays(graph_dataset(raw, first_product="symmetric", **options), "train")
        batch = TASK.batch(arrays, jnp.arange(1), None)
        if options["layers"] == 3:
            features, *blocks = batch["x"].features.shape[0], *batch["x"].blocks
            of_layers = [features, *(block.shape[0] for block in blocks)]
            expected = [6, 5, 4, 3] if options.get("sparse_below") else [5, 4, 3]
            assert of_layers == expected, "a layer has the nodes that the next one reads"
            assert len(batch["y"]) == 3
        params = random_params(gcn(model, FEATURES, num_subnets=1))

        def loss(p, batch=batch):
            return task_loss(model, p, batch)

        results.append(jax.value_and_grad(loss)(params))
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model,decompose",
    [(GraphSAGE((8, 6), 3, norm="layer"), sage), (GAT((4, 4), 3, heads=2), gat)],
    ids=["sage", "gat"],
)
def test_graphsage_and_gat_without_far_nodes_have_the_loss_and_the_gradient_of_the_full_graph(
    model, decompose
):
    raw = path_graph()
    params, results = random_params(decompose(model, FEATURES, num_subnets=1)), []
    for layers, nodes in ((None, 40), (3, 5 if decompose is sage else 6)):
        data = graph_dataset(raw, first_product=FIRST_PRODUCTS[type(model)], layers=layers)
        batch = TASK.batch(device_arrays(data, "train"), jnp.arange(1), None)
        assert batch["x"].features.shape[0] == nodes, "what three layers read of a path"

        def loss(p, batch=batch):
            return task_loss(model, p, batch)

        results.append(jax.value_and_grad(loss)(params))
    assert_close(*results, rtol=1e-3, atol=1e-4)


def full_batch(num_subnets, placement=None, tx=None, **options):
    split = gcn(GCN((8, 8), CLASSES, dropout=0.5), FEATURES, num_subnets=num_subnets)
    return ist(split, TASK, tx or optax.adam(1e-2), batch_size=1, placement=placement, **options)


def test_one_sub_gcn_is_full_batch_training_by_hand():
    data = graph_dataset(first_product="symmetric")
    method = ist(
        gcn(GCN((8, 8), CLASSES), FEATURES, num_subnets=1), TASK, optax.sgd(0.1), batch_size=1
    )
    state, _ = rounds(method, 2, 3, data)
    model = GCN((8, 8), CLASSES)
    params = gcn(model, FEATURES, num_subnets=1).init(named_key(ROOT, "init"))
    graph = device_arrays(data, "train")["graph"]

    @jax.jit
    def step(params):
        def loss(params):
            log_p = jax.nn.log_softmax(model.apply({"params": params}, graph))
            return -log_p[np.flatnonzero(RAW.train_N), RAW.labels_N[RAW.train_N]].mean()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    for _ in range(6):
        params = step(params)
    assert_close(method.params(state), params, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_sub_gcns_train_alike_in_all_placements_and_are_evaluated_on_the_full_graph():
    data, results = graph_dataset(first_product="symmetric"), []
    for place in ("looped", "vmapped", "sharded-4"):
        method = full_batch(4, placements()[place](), optax.sgd(0.1))
        state, _ = rounds(method, 2, 2, data)
        test = {"test": data.on_device("test", method.sharding)}
        score = jax.jit(
            functools.partial(evaluate, method, TASK, batch_size=1, subnets=False, calibration=None)
        )
        results.append(
            jax.device_get((method.params(state), state.indices, score(state=state, splits=test)))
        )
    for params, indices, scores in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, indices, results[0][1])
        assert_close(scores, results[0][2], rtol=1e-4)
        assert_close(params, results[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_evaluation_over_parts_counts_every_node_once_in_the_graph_of_its_part():
    """Five clusters, two at a time. The last batch repeats a cluster, which counts no more.

    The edges between the two are there.
    """
    data, model = graph_dataset(first_product="symmetric", clusters=5), GCN((8, 8), CLASSES)
    method = ist(gcn(model, FEATURES, num_subnets=2), TASK, optax.sgd(0.1), batch_size=2)
    state, arrays = method.fresh(ROOT), device_arrays(data, "test")
    metrics = evaluate(method, TASK, state, {"test": arrays}, None, batch_size=2, subnets=False)[
        "test"
    ]
    params, loss, correct, count = method.params(state), 0.0, 0.0, 0.0
    for clusters, new in (([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 0], [4])):
        batch = TASK.batch(arrays, jnp.array(clusters), None)
        log_p = jax.nn.log_softmax(model.apply({"params": params}, batch["x"]))
        counts = np.asarray(batch["counted"]) * np.isin(
            np.array(clusters)[np.asarray(batch["slot"])], new
        )
        loss -= (
            counts * np.take_along_axis(np.asarray(log_p), np.asarray(batch["y"])[:, None], 1)[:, 0]
        ).sum()
        correct += (counts * (log_p.argmax(1) == batch["y"])).sum()
        count += counts.sum()
    assert count == RAW.test_N.sum()
    np.testing.assert_allclose(
        [metrics["loss"], metrics["accuracy"]], [loss / count, correct / count], rtol=1e-5
    )


@pytest.mark.slow
def test_disjoint_clusters_give_the_same_round_on_one_device_and_on_two():
    shards = functools.partial(disjoint, seed=0)
    options = GraphOptions("symmetric", clusters=8)
    data = make_graph_dataset(RAW, "random", source="random", options=options, shards=shards)
    results = []
    for place in ("vmapped", "sharded-2"):
        split = gcn(GCN((8, 8), CLASSES), FEATURES, num_subnets=4)
        method = ist(split, TASK, optax.sgd(0.1), batch_size=2, placement=placements()[place]())
        results.append(jax.device_get(method.params(rounds(method, 2, 2, data)[0])))
    assert_close(*results, rtol=1e-4, atol=1e-5)


def test_gist_learns_and_is_evaluated_on_the_full_graph_and_over_partitions():
    raw = raw_graph(200)
    data = graph_dataset(raw, first_product="symmetric", clusters=4)
    split = gcn(GCN((16, 16), CLASSES), FEATURES, num_subnets=2)
    method = ist(split, TASK, optax.adam(2e-2), batch_size=2)
    results = run([(method, 1600, 20)], TASK, data, LoopConfig(eval_every=0))
    last = results.summary["last"]["test"]
    assert last["accuracy"] > 0.5 and results.summary["samples_seen"] == 1600

    def score(size):
        return evaluate(
            method,
            TASK,
            results.state,
            {"test": device_arrays(data, "test")},
            None,
            batch_size=size,
            subnets=True,
        )

    full, parts = score(4)["test"], score(2)["test"]
    assert abs(float(full["accuracy"]) - last["accuracy"]) < 1e-6
    assert score(4)["test_subnets"]["accuracy"].shape == (2,) and float(parts["accuracy"]) > 0.4
    assert float(full["loss"]) != float(parts["loss"]), "edges between parts do not count"
