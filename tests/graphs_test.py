"""Graph networks against dense formulas, and graphs that are cut into parts against the whole ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CLASSES, FEATURES, FIRST_PRODUCTS, ROOT, graph_dataset, placements, random_params, raw_graph, rounds

from ist_jax import ist, run
from ist_jax.data.graphs import adjacency, sparse
from ist_jax.decompositions import gat, gcn, sage
from ist_jax.evaluation import evaluate
from ist_jax.keys import named_key
from ist_jax.loop import LoopConfig
from ist_jax.models import GAT, GCN, GraphSAGE
from ist_jax.models.graphs import drop_entries, dropped, neighbour_sum, times
from ist_jax.order import draw
from ist_jax.tasks import node_classification

RAW, TASK = raw_graph(), node_classification()
DENSE = np.asarray(adjacency(RAW)[0].todense())
X = RAW.features_NxD


def dense_symmetric():
    with_self = DENSE + np.eye(len(DENSE))
    scale = 1 / np.sqrt(with_self.sum(axis=1))
    return scale[:, None] * with_self * scale[None]


def dense_norm(h, norm):
    axis = {"layer": 1, "matrix": None}[norm]
    return (h - h.mean(axis, keepdims=True)) / np.sqrt(h.var(axis, keepdims=True) + 1e-5)


def weights(model, seed=0):
    """Random parameters, biases too, and the graph of all nodes."""
    graph = graph_dataset(first_product=FIRST_PRODUCTS[type(model)]).arrays("test")["graph"]
    shapes = jax.eval_shape(model.init, ROOT, graph)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes), graph


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_rows_are_the_matrix_whatever_the_numbers_of_entries(density):
    """Also where one row of 30 is full, and others are empty."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(30, 50)) * (rng.random((30, 50)) < density)
    matrix[3], matrix[4] = 1.0, 0.0
    laid, kernel = sparse(matrix.astype(np.float32)), jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
    assert laid.shape == (30, 50) and (density > 0.5 or len(laid.rows.column) > 1), "the full row is of a width of its own"
    np.testing.assert_allclose(times(laid, kernel), matrix @ kernel, rtol=1e-4, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    (gradient,) = jax.vjp(lambda kernel: times(laid, kernel), kernel)[1](cotangent)
    np.testing.assert_allclose(gradient, matrix.T @ cotangent, rtol=1e-4, atol=1e-5)


def test_products_of_all_subnetworks_at_once_are_those_of_each():
    """Of shared entries, of entries of their own (dropout), and of kernels or entries alone."""
    rng = np.random.default_rng(0)
    laid = sparse(np.where(rng.random((30, 50)) < 0.1, 1.0, 0.0).astype(np.float32))
    kernel_S = jnp.asarray(rng.normal(size=(3, 50, 4)), jnp.float32)
    keys = jax.random.split(ROOT, 3)
    product = lambda key, kernel: times(drop_entries(laid, 0.5, key), kernel)
    back = lambda key, kernel: jax.grad(lambda kernel: (product(key, kernel) ** 2).sum())(kernel)
    for f, axes in ((product, (0, 0)), (product, (0, None)), (product, (None, 0)), (back, (0, 0)), (back, (0, None))):
        of = lambda values, axis, s: values if axis is None else values[s]
        given = [values if axis == 0 else values[0] for values, axis in zip((keys, kernel_S), axes)]
        found = jax.jit(jax.vmap(f, in_axes=axes))(*given)
        for s in range(3):
            np.testing.assert_allclose(found[s], f(of(given[0], axes[0], s), of(given[1], axes[1], s)), rtol=1e-4, atol=1e-5)


def test_the_sum_over_neighbours_and_its_gradient_are_those_of_the_dense_matrix():
    graph = graph_dataset().arrays("test")["graph"]
    assert len(graph.receiver_R), "a node has more neighbours than a row holds"
    h, g = (jax.random.normal(jax.random.key(i), (len(DENSE), 3)) for i in (0, 1))
    summed, back = jax.vjp(lambda h: neighbour_sum(h, graph), h)
    np.testing.assert_allclose(summed, DENSE @ h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back(g)[0], DENSE.T @ g, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "layer", "matrix"])
@pytest.mark.parametrize("features", ["dense", "sparse"])
def test_gcn_is_its_formula(norm, features):
    """Kipf and Welling: A (relu(A X W0 + b0)) W1 + b1 ..., with either order of products."""
    model = GCN((6, 20), CLASSES, norm=norm)
    params, graph = weights(model)
    if features == "sparse":
        graph = graph._replace(features=sparse(X))
    h, A = X, dense_symmetric()
    for i in range(2):
        h = A @ h @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"]
        h = dense_norm(h, norm) if norm == "layer" else h
        h = np.maximum(h, 0)
        h = dense_norm(h, norm) if norm == "matrix" else h
    expected = A @ h @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, graph), expected, rtol=1e-3, atol=1e-3)


def test_graphsage_is_its_formula():
    """Hamilton et al.: W (h, mean of neighbours) + b, the norm before the activation; nodes without neighbours have mean 0."""
    model = GraphSAGE((6, 9), CLASSES, norm="layer")
    params, graph = weights(model)
    mean, h = DENSE / np.maximum(DENSE.sum(axis=1, keepdims=True), 1), X
    layer = lambda h, p: h @ p["kernel"][0] + mean @ h @ p["kernel"][1] + p["bias"]
    for i in range(2):
        h = np.maximum(dense_norm(layer(h, params[f"hidden_{i}"]), "layer"), 0)
    expected = layer(h, params["output"])
    assert (DENSE.sum(axis=1) == 0).any()
    np.testing.assert_allclose(model.apply({"params": params}, graph), expected, rtol=1e-3, atol=1e-3)


def dense_attention(h_NxGxD, p):
    """Velickovic et al., eq. 1 to 5, one node and one head after another."""
    z = np.einsum("ngd,gdah->nah", h_NxGxD, p["project"]["kernel"])
    out = np.zeros_like(z)
    for node in range(len(z)):
        near = np.flatnonzero(DENSE[node] + (np.arange(len(z)) == node))
        for head in range(z.shape[1]):
            logit = z[node, head] @ p["receiver"][head] + z[near, head] @ p["sender"][head]
            logit = np.where(logit > 0, logit, 0.2 * logit)
            weight = np.exp(logit - logit.max())
            out[node, head] = weight / weight.sum() @ z[near, head]
    return out


def test_gat_is_its_formula_and_its_last_heads_are_averaged_per_node_and_class():
    """G3: the authors' GAT took the mean of its last heads over nodes and classes too, one number for all."""
    model = GAT((4,), CLASSES, heads=3)
    params, graph = weights(model)
    h = dense_attention(X[:, None], params["hidden_0"]) + params["hidden_0"]["bias"]
    h = np.where(h > 0, h, np.expm1(h))
    assert h.shape == (len(X), 3, 4), "heads are concatenated inside"
    expected = dense_attention(h, params["output"]).mean(axis=1) + params["output"]["bias"]
    found = model.apply({"params": params}, graph)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert found.shape == (len(X), CLASSES) and np.std(found, axis=0).min() > 0.1 and np.std(found, axis=1).min() > 0.01


def test_gat_does_not_hold_the_features_of_all_edges_at_once():
    """Of 60 nodes, each joined to all: temporary memory of a gradient is far below edges x heads x features."""
    nodes, heads, width = 60, 4, 64
    pairs = np.stack(np.triu_indices(nodes, 1))
    graph = graph_dataset(raw_graph(nodes, edges_2xE=pairs)).arrays("test")["graph"]
    model = GAT((width,), CLASSES, heads=heads)
    params = random_params(gat(model, FEATURES, num_subnets=1))
    gradient = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, graph) ** 2).sum()))
    held = gradient.lower(params).compile().memory_analysis().temp_size_in_bytes
    assert held < 4 * 2 * pairs.shape[1] * heads * width / 2


def test_dropout_is_on_with_a_key_and_off_without():
    for model in (GCN((6,), CLASSES, dropout=0.5), GraphSAGE((6,), CLASSES, dropout=0.5), GAT((6,), CLASSES, dropout=0.5)):
        params, graph = weights(model)
        off, again = (model.apply({"params": params}, graph) for _ in range(2))
        on = model.apply({"params": params}, graph, rngs={"dropout": ROOT})
        np.testing.assert_array_equal(off, again)
        assert np.abs(on - off).max() > 0.1


def test_dropout_of_sparse_entries_is_one_matrix_in_both_layouts_and_keeps_its_share():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)
    matrix[3] = 1.0
    laid = sparse(matrix.astype(np.float32))
    dense = lambda found: np.asarray(times(found, jnp.eye(50)))
    dropped = drop_entries(laid, 0.25, ROOT)
    (transposed,) = jax.vjp(lambda kernel: times(dropped, kernel), jnp.zeros((50, 60)))[1](jnp.eye(60))
    np.testing.assert_allclose(dense(dropped), transposed.T, atol=1e-6)
    kept = dense(dropped)[matrix != 0] != 0
    assert 0.7 < kept.mean() < 0.8 and (dense(drop_entries(laid, 0.25, jax.random.key(9)))[matrix != 0] != 0).sum() > 0
    np.testing.assert_allclose(dense(dropped)[matrix != 0][kept], matrix[matrix != 0][kept] / 0.75, rtol=1e-5)
    other = dense(drop_entries(laid, 0.25, jax.random.key(9)))[matrix != 0] != 0
    assert 0.5 < (kept == other).mean() < 0.75, "another key, other entries"


def test_dropout_of_dense_features_is_that_of_sparse_ones_and_of_every_layer_its_own():
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)).astype(np.float32)
    dense = dropped(jnp.asarray(matrix), 0.25, ROOT)
    np.testing.assert_allclose(times(dropped(sparse(matrix), 0.25, ROOT), jnp.eye(50)), dense, rtol=1e-6)
    pair = dropped(jnp.ones((400, 2, 30)), 0.25, ROOT)
    assert set(np.unique(pair)) == {0.0, np.float32(1 / 0.75)} and 0.73 < (np.asarray(pair) > 0).mean() < 0.77
    alike = lambda a, b: ((np.asarray(a) > 0) == (np.asarray(b) > 0)).mean()
    independent = 0.75**2 + 0.25**2
    for other in (pair[:, ::-1], pair[::-1], jnp.roll(pair, 1, 2), dropped(jnp.ones((400, 2, 30)), 0.25, jax.random.key(9))):
        assert abs(alike(pair, other) - independent) < 0.015
    np.testing.assert_array_equal(dropped(jnp.ones((4, 3)), 0.5, None), 1.0)


def arrays_of(data, part):
    return jax.tree.map(jnp.asarray, data.arrays(part))


@pytest.mark.parametrize("model", [GCN((6, 20), CLASSES), GraphSAGE((6, 9), CLASSES), GAT((4,), CLASSES, heads=2)])
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
        np.testing.assert_allclose(found, model.apply({"params": params}, alone)[jnp.array(order)], rtol=1e-3, atol=1e-3)


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
    raw_node = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in np.asarray(arrays["graph"].features)[nodes]]
    edges = np.stack(np.nonzero(DENSE[np.ix_(raw_node, raw_node)]))
    splits = np.eye(3, len(nodes), dtype=bool)
    raw = RAW._replace(features_NxD=X[raw_node], labels_N=np.zeros(len(nodes), int), edges_2xE=edges)
    raw = raw._replace(train_N=splits[0], validation_N=splits[1], test_N=splits[2])
    return graph_dataset(raw, first_product=FIRST_PRODUCTS[kind]).arrays("test")["graph"]


def test_all_clusters_are_the_whole_graph_and_a_pass_covers_every_training_node_once():
    data = graph_dataset(clusters=5)
    arrays = arrays_of(data, "train")
    whole = TASK.batch(arrays, jnp.arange(5), None)
    assert whole["x"].features.shape == X.shape and float(whole["counted"].sum()) == RAW.train_N.sum()
    view = data.view(0, ROOT, 2, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    seen = [[int(c) for p in range(5) for c in draw(view, jnp.int32(w), jnp.int32(p), 1)] for w in (0, 1)]
    assert sorted(seen[0]) == sorted(seen[1]) == [0, 1, 2, 3, 4] and seen[0] != seen[1], "2(e)7: workers see other clusters"
    counted = sum(float(TASK.batch(arrays, jnp.array([c]), None)["counted"].sum()) for c in seen[0])
    assert counted == RAW.train_N.sum()


def test_a_cluster_that_is_named_twice_counts_once():
    arrays = arrays_of(graph_dataset(clusters=5), "train")
    once, twice = (TASK.batch(arrays, jnp.array(clusters), None) for clusters in ([1, 3], [3, 1, 3]))
    for field in (lambda b: b["counted"].sum(), lambda b: b["x"].degree_N.sum(), lambda b: b["x"].mask_N.sum()):
        assert float(field(once)) == float(field(twice)) > 0


def test_training_without_far_nodes_has_the_loss_and_the_gradient_of_the_whole_graph():
    """Also where features are sparse; first products and degrees are those of the whole graph."""
    few = np.arange(40) < 3
    raw = raw_graph(train_N=few, labels_N=np.where(few, np.arange(40), 0), validation_N=np.arange(40) == 4)
    raw = raw._replace(test_N=np.arange(40) == 5, edges_2xE=np.stack([np.arange(39), np.arange(1, 40)]))
    model, results = GCN((8, 6), 3), []
    for options in (dict(layers=None), dict(layers=3), dict(layers=None, sparse_below=2.0), dict(layers=3, sparse_below=2.0)):
        arrays = arrays_of(graph_dataset(raw, first_product="symmetric", **options), "train")
        batch = TASK.batch(arrays, jnp.arange(1), None)
        if options["layers"] == 3:
            features, *blocks = batch["x"].features.shape[0], *batch["x"].blocks
            of_layers = [features, *(block.shape[0] for block in blocks)]
            expected = [6, 5, 4, 3] if options.get("sparse_below") else [5, 4, 3]
            assert of_layers == expected and len(batch["y"]) == 3, "a path: a layer has the nodes that the next one reads"
        params = random_params(gcn(model, FEATURES, num_subnets=1))
        loss = lambda p, batch=batch: TASK.loss(model.apply, {"params": p}, batch, ROOT)[0]
        results.append(jax.value_and_grad(loss)(params))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other, results[0])


def full_batch(num_subnets, placement=None, tx=None, **options):
    split = gcn(GCN((8, 8), CLASSES, dropout=0.5), FEATURES, num_subnets=num_subnets)
    return ist(split, TASK, tx or optax.adam(1e-2), batch_size=1, placement=placement, **options)


@pytest.mark.parametrize("model,make", [(GCN, gcn), (GraphSAGE, sage)])
def test_scaling_is_of_what_reads_dealt_features_in_the_full_model_alone(model, make):
    """The last hidden layer is whole here: its sums are as long in a subnetwork."""
    options = dict(num_subnets=4, split_output=False, scaling="keep")
    split = make(model((8, 6), CLASSES, norm="none"), FEATURES, **options)
    assert split.full.sum_scales == split.padded.sum_scales == (1.0, 0.25, 1.0) and split.subnet.sum_scales == ()
    params, graph = weights(split.full)
    quarter = params["hidden_1"] | {"kernel": 0.25 * params["hidden_1"]["kernel"]}
    expected = split.subnet.clone(hidden=(8, 6)).apply({"params": params | {"hidden_1": quarter}}, graph)
    np.testing.assert_allclose(split.full.apply({"params": params}, graph), expected, rtol=1e-4, atol=1e-5)


def test_one_sub_gcn_is_full_batch_training_by_hand():
    data = graph_dataset(first_product="symmetric")
    algorithm = ist(gcn(GCN((8, 8), CLASSES), FEATURES, num_subnets=1), TASK, optax.sgd(0.1), batch_size=1)
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), algorithm.params(state), params)


def test_sub_gcns_train_and_are_evaluated_on_the_full_graph_alike_wherever_they_are():
    data, results = graph_dataset(first_product="symmetric"), []
    for place in ("looped", "vmapped", "sharded-4"):
        algorithm = full_batch(4, placements()[place](), optax.sgd(0.1))
        state, _ = rounds(algorithm, 2, 2, data)
        test = {"test": data.on_device("test", algorithm.sharding)}
        score = jax.jit(functools.partial(evaluate, algorithm, TASK, batch_size=1, subnets=False, sample_arrays=None))
        results.append(jax.device_get((algorithm.params(state), state.indices, score(state=state, splits=test))))
    for params, indices, scores in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, indices, results[0][1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), scores, results[0][2])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, results[0][0])


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
    assert results.summary["test_accuracy"] > 0.5 and results.summary["samples_seen"] == 1600
    score = lambda size: evaluate(
        algorithm, TASK, results.state, {"test": arrays_of(data, "test")}, None, batch_size=size, subnets=True
    )["test"]
    full, parts = score(4), score(2)
    assert abs(float(full["accuracy"]) - results.summary["test_accuracy"]) < 1e-6
    assert full["subnet_accuracy_S"].shape == (2,) and float(parts["accuracy"]) > 0.4
    assert float(full["loss"]) != float(parts["loss"]), "edges between partitions do not count there"
