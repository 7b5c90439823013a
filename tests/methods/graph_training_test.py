"""Batches of graphs, and training on them, against the whole graphs."""

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
from small_graph import DENSE, RAW, TASK, X, weights

from ist_jax import ist, run
from ist_jax.core.keys import named_key
from ist_jax.core.sample_order import draw
from ist_jax.decompositions import gat, gcn, sage
from ist_jax.models import GAT, GCN, GraphSAGE, linen
from ist_jax.models.graphs import neighbour_sum
from ist_jax.training.evaluation import evaluate
from ist_jax.training.loop import LoopConfig


def arrays_of(data, part):
    return jax.tree.map(jnp.asarray, data.arrays(part))


@pytest.mark.parametrize(
    "model", [GCN((6, 20), CLASSES), GraphSAGE((6, 9), CLASSES), GAT((4,), CLASSES, heads=2)]
)
def test_a_union_of_clusters_is_the_graph_of_its_nodes_and_padding_changes_nothing(model):
    data = graph_dataset(clusters=5)
    params, _ = weights(model)
    arrays = arrays_of(data, "train")
    for clusters in ([1, 3], [4], [0, 2, 3, 4]):
        batch = jax.jit(lambda index: TASK.batch(arrays, index, None))(jnp.array(clusters))
        held = np.asarray(batch["x"].mask_N) > 0
        nodes = np.flatnonzero(np.isin(arrays["cluster_N"], clusters))
        position = {slot: i for i, slot in enumerate(np.flatnonzero(held))}
        x = np.asarray(arrays["graph"].features)[nodes]
        own = {tuple(row): i for i, row in enumerate(x)}
        order = [own[tuple(row)] for row in np.asarray(batch["x"].features)[held]]
        assert len(held) >= len(nodes) == len(position) and sorted(order) == list(range(len(nodes)))
        alone = alone_graph(nodes, arrays, type(model))
        with_products = batch["x"]._replace(features=first_layer(batch["x"], type(model)))
        found = model.apply({"params": params}, with_products)[held]
        np.testing.assert_allclose(
            found, model.apply({"params": params}, alone)[jnp.array(order)], rtol=1e-3, atol=1e-3
        )


def first_layer(graph, kind):
    """The first product, on the graph at hand."""
    if kind is GAT:
        return graph.features
    if kind is GraphSAGE:
        share = (1 / jnp.maximum(graph.degree_N, 1))[:, None]
        return jnp.stack([graph.features, neighbour_sum(graph.features, graph) * share], axis=1)
    scale = (graph.mask_N / jnp.sqrt(graph.degree_N + 1))[:, None]
    return scale * (neighbour_sum(scale * graph.features, graph) + scale * graph.features)


def alone_graph(nodes, arrays, kind):
    """The induced graph of `nodes`, made anew from nodes and edges of the dense matrix."""
    raw_node = [
        int(np.flatnonzero((row == X).all(axis=1))[0])
        for row in np.asarray(arrays["graph"].features)[nodes]
    ]
    edges = np.stack(np.nonzero(DENSE[np.ix_(raw_node, raw_node)]))
    splits = np.eye(3, len(nodes), dtype=bool)
    raw = RAW._replace(
        features_NxD=X[raw_node], labels_N=np.zeros(len(nodes), int), edges_2xE=edges
    )
    raw = raw._replace(train_N=splits[0], validation_N=splits[1], test_N=splits[2])
    return graph_dataset(raw, first_product=FIRST_PRODUCTS[kind]).arrays("test")["graph"]


def test_all_clusters_are_the_whole_graph_and_a_pass_covers_every_training_node_once():
    data = graph_dataset(clusters=5)
    arrays = arrays_of(data, "train")
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
        "2(e)7: workers see other clusters"
    )
    counted = sum(float(TASK.batch(arrays, jnp.array([c]), None)["counted"].sum()) for c in seen[0])
    assert counted == RAW.train_N.sum()


def test_a_cluster_that_is_named_twice_counts_once():
    arrays = arrays_of(graph_dataset(clusters=5), "train")
    once, twice = (
        TASK.batch(arrays, jnp.array(clusters), None) for clusters in ([1, 3], [3, 1, 3])
    )
    for field in (
        lambda b: b["counted"].sum(),
        lambda b: b["x"].degree_N.sum(),
        lambda b: b["x"].mask_N.sum(),
    ):
        assert float(field(once)) == float(field(twice)) > 0


def test_training_without_far_nodes_has_the_loss_and_the_gradient_of_the_whole_graph():
    """Also where features are sparse; first products and degrees are those of the whole graph."""
    few = np.arange(40) < 3
    raw = raw_graph(
        train_N=few, labels_N=np.where(few, np.arange(40), 0), validation_N=np.arange(40) == 4
    )
    raw = raw._replace(
        test_N=np.arange(40) == 5, edges_2xE=np.stack([np.arange(39), np.arange(1, 40)])
    )
    model, results = GCN((8, 6), 3), []
    for options in (
        dict(layers=None),
        dict(layers=3),
        dict(layers=None, sparse_below=2.0),
        dict(layers=3, sparse_below=2.0),
    ):
        arrays = arrays_of(graph_dataset(raw, first_product="symmetric", **options), "train")
        batch = TASK.batch(arrays, jnp.arange(1), None)
        if options["layers"] == 3:
            features, *blocks = batch["x"].features.shape[0], *batch["x"].blocks
            of_layers = [features, *(block.shape[0] for block in blocks)]
            expected = [6, 5, 4, 3] if options.get("sparse_below") else [5, 4, 3]
            assert of_layers == expected and len(batch["y"]) == 3, (
                "a path: a layer has the nodes that the next one reads"
            )
        params = random_params(gcn(model, FEATURES, num_subnets=1))
        loss = lambda p, batch=batch: TASK.loss(linen(model), p, batch, ROOT)[0]
        results.append(jax.value_and_grad(loss)(params))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other, results[0]
        )


@pytest.mark.parametrize(
    "model,decompose",
    [(GraphSAGE((8, 6), 3, norm="layer"), sage), (GAT((4, 4), 3, heads=2), gat)],
    ids=["sage", "gat"],
)
def test_graphsage_and_gat_without_far_nodes_have_the_loss_and_the_gradient_of_the_whole_graph(
    model, decompose
):
    few = np.arange(40) < 3
    raw = raw_graph(
        train_N=few, labels_N=np.where(few, np.arange(40), 0), validation_N=np.arange(40) == 4
    )
    raw = raw._replace(
        test_N=np.arange(40) == 5, edges_2xE=np.stack([np.arange(39), np.arange(1, 40)])
    )
    params, results = random_params(decompose(model, FEATURES, num_subnets=1)), []
    for layers, nodes in ((None, 40), (3, 5 if decompose is sage else 6)):
        data = graph_dataset(raw, first_product=FIRST_PRODUCTS[type(model)], layers=layers)
        batch = TASK.batch(arrays_of(data, "train"), jnp.arange(1), None)
        assert batch["x"].features.shape[0] == nodes, (
            "a path: what three layers read, the first sum being made with the data"
        )
        loss = lambda p, batch=batch: TASK.loss(linen(model), p, batch, ROOT)[0]
        results.append(jax.value_and_grad(loss)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


def full_batch(num_subnets, placement=None, tx=None, **options):
    split = gcn(GCN((8, 8), CLASSES, dropout=0.5), FEATURES, num_subnets=num_subnets)
    return ist(split, TASK, tx or optax.adam(1e-2), batch_size=1, placement=placement, **options)


def test_one_sub_gcn_is_full_batch_training_by_hand():
    data = graph_dataset(first_product="symmetric")
    algorithm = ist(
        gcn(GCN((8, 8), CLASSES), FEATURES, num_subnets=1), TASK, optax.sgd(0.1), batch_size=1
    )
    state, _ = rounds(algorithm, 2, 3, data)
    model = GCN((8, 8), CLASSES)
    params = gcn(model, FEATURES, num_subnets=1).init(named_key(ROOT, "init"))
    graph = arrays_of(data, "train")["graph"]

    @jax.jit
    def step(params):
        def loss(params):
            log_p = jax.nn.log_softmax(model.apply({"params": params}, graph))
            return -log_p[np.flatnonzero(RAW.train_N), RAW.labels_N[RAW.train_N]].mean()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    for _ in range(6):
        params = step(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        algorithm.params(state),
        params,
    )


def test_sub_gcns_train_and_are_evaluated_on_the_full_graph_alike_wherever_they_are():
    data, results = graph_dataset(first_product="symmetric"), []
    for place in ("looped", "vmapped", "sharded-4"):
        algorithm = full_batch(4, placements()[place](), optax.sgd(0.1))
        state, _ = rounds(algorithm, 2, 2, data)
        test = {"test": data.on_device("test", algorithm.sharding)}
        score = jax.jit(
            functools.partial(
                evaluate, algorithm, TASK, batch_size=1, subnets=False, sample_arrays=None
            )
        )
        results.append(
            jax.device_get(
                (algorithm.params(state), state.indices, score(state=state, splits=test))
            )
        )
    for params, indices, scores in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, indices, results[0][1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), scores, results[0][2]
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            params,
            results[0][0],
        )


def test_evaluation_over_parts_counts_every_node_once_in_the_graph_of_its_part():
    """Five clusters, two at a time: the tail is filled with one that was counted, and counts no more; its edges are there."""
    data, model = graph_dataset(first_product="symmetric", clusters=5), GCN((8, 8), CLASSES)
    algorithm = ist(gcn(model, FEATURES, num_subnets=2), TASK, optax.sgd(0.1), batch_size=2)
    state, arrays = algorithm.fresh(ROOT), arrays_of(data, "test")
    found = evaluate(algorithm, TASK, state, {"test": arrays}, None, batch_size=2, subnets=False)[
        "test"
    ]
    params, loss, correct, count = algorithm.params(state), 0.0, 0.0, 0.0
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
        [found["loss"], found["accuracy"]], [loss / count, correct / count], rtol=1e-5
    )


def test_clusters_of_their_own_lie_with_their_workers():
    from ist_jax.data import GraphOptions, make_graph_dataset
    from ist_jax.data.splits import disjoint

    shards = functools.partial(disjoint, seed=0)
    options = GraphOptions("symmetric", clusters=8)
    data = make_graph_dataset(RAW, "random", source="random", options=options, shards=shards)
    results = []
    for place in ("vmapped", "sharded-2"):
        split = gcn(GCN((8, 8), CLASSES), FEATURES, num_subnets=4)
        algorithm = ist(split, TASK, optax.sgd(0.1), batch_size=2, placement=placements()[place]())
        results.append(jax.device_get(algorithm.params(rounds(algorithm, 2, 2, data)[0])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_gist_learns_and_is_evaluated_on_the_full_graph_and_over_partitions():
    raw = raw_graph(200)
    data = graph_dataset(raw, first_product="symmetric", clusters=4)
    split = gcn(GCN((16, 16), CLASSES), FEATURES, num_subnets=2)
    algorithm = ist(split, TASK, optax.adam(2e-2), batch_size=2)
    results = run([(algorithm, 1600, 20)], TASK, data, LoopConfig(eval_every=0))
    assert (
        results.summary["last"]["test"]["accuracy"] > 0.5
        and results.summary["samples_seen"] == 1600
    )
    score = lambda size: evaluate(
        algorithm,
        TASK,
        results.state,
        {"test": arrays_of(data, "test")},
        None,
        batch_size=size,
        subnets=True,
    )
    full, parts = score(4)["test"], score(2)["test"]
    assert abs(float(full["accuracy"]) - results.summary["last"]["test"]["accuracy"]) < 1e-6
    assert score(4)["test_subnets"]["accuracy"].shape == (2,) and float(parts["accuracy"]) > 0.4
    assert float(full["loss"]) != float(parts["loss"]), (
        "edges between partitions do not count there"
    )
