"""Graph networks and their sums against dense formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CLASSES,
    FEATURES,
    FIRST_PRODUCTS,
    ROOT,
    as_users_compile,
    graph_dataset,
    random_params,
    raw_graph,
)
from small_graph import DENSE, X, weights

from ist_jax.data.graphs import sparse
from ist_jax.decompositions import gat, gcn, sage
from ist_jax.models import GAT, GCN, GraphSAGE
from ist_jax.models.graphs import drop_entries, dropped, neighbour_sum, normalised, times


def dense_symmetric():
    with_self = DENSE + np.eye(len(DENSE))
    scale = 1 / np.sqrt(with_self.sum(axis=1))
    return scale[:, None] * with_self * scale[None]


def dense_norm(h, norm):
    axis = {"layer": 1, "matrix": None}[norm]
    return (h - h.mean(axis, keepdims=True)) / np.sqrt(h.var(axis, keepdims=True) + 1e-5)


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_rows_are_the_matrix_whatever_the_numbers_of_entries(density):
    """Also where one row of 40 is full, and others are empty."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 70)) * (rng.random((40, 70)) < density)
    matrix[3], matrix[4] = 1.0, 0.0
    laid, kernel = (
        sparse(matrix.astype(np.float32)),
        jnp.asarray(rng.normal(size=(70, 4)), jnp.float32),
    )
    assert laid.shape == (40, 70) and (density > 0.5 or len(laid.rows.column) > 1), (
        "the full row is of a width of its own"
    )
    np.testing.assert_allclose(times(laid, kernel), matrix @ kernel, rtol=1e-4, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=(40, 4)), jnp.float32)
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
    for f, axes in itertools.product((product, back), ((0, 0), (0, None), (None, 0))):
        of = lambda values, axis, s: values if axis is None else values[s]
        given = [values if axis == 0 else values[0] for values, axis in zip((keys, kernel_S), axes)]
        found = jax.jit(jax.vmap(f, in_axes=axes))(*given)
        for s in range(3):
            np.testing.assert_allclose(
                found[s],
                f(of(given[0], axes[0], s), of(given[1], axes[1], s)),
                rtol=1e-4,
                atol=1e-5,
            )


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
    np.testing.assert_allclose(
        model.apply({"params": params}, graph), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    "model, first", [(GCN((8, 6), CLASSES), "symmetric"), (GraphSAGE((8, 6), CLASSES), "mean")]
)
def test_a_graph_laid_out_for_another_depth_is_refused(model, first):
    found = graph_dataset(raw_graph(), first_product=first, layers=2).arrays("train")["graph"]
    with pytest.raises(
        ValueError, match="laid out for 1 sums over neighbours, and the model has 2"
    ):
        jax.eval_shape(model.init, jax.random.key(0), found)


@pytest.mark.parametrize("norm", ["layer", "matrix", "none"])
def test_graphsage_is_its_formula(norm):
    """Hamilton et al.: W (h, mean of neighbours) + b, the norm before the activation ('matrix' after it); nodes without
    neighbours have mean 0."""
    model = GraphSAGE((6, 9), CLASSES, norm=norm)
    params, graph = weights(model)
    mean, h = DENSE / np.maximum(DENSE.sum(axis=1, keepdims=True), 1), X
    layer = lambda h, p: h @ p["kernel"][0] + mean @ h @ p["kernel"][1] + p["bias"]
    for i in range(2):
        h = layer(h, params[f"hidden_{i}"])
        h = np.maximum(dense_norm(h, norm) if norm == "layer" else h, 0)
        h = dense_norm(h, norm) if norm == "matrix" else h
    expected = layer(h, params["output"])
    assert (DENSE.sum(axis=1) == 0).any()
    np.testing.assert_allclose(
        model.apply({"params": params}, graph), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_the_gradient_of_the_norm_over_features_is_that_of_its_formula(epsilon):
    """It is written out by hand; rows that are nearly constant, too."""
    rng = np.random.default_rng(0)
    h, g = (jnp.asarray(rng.normal(size=(9, 7)), jnp.float32) for _ in range(2))
    h = h.at[3].multiply(1e-3)
    by_hand = lambda h: (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + epsilon)
    (expected, pull), (found, found_pull) = (
        jax.vjp(f, h) for f in (by_hand, lambda h: normalised(h, "layer", None, epsilon))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_pull(g)[0], pull(g)[0], rtol=1e-3, atol=1e-4)


def test_products_with_sparse_matrices_are_made_once_in_optimised_programs():
    """Behind a condition that XLA keeps: one for the sums of a product and one for their order."""
    laid = sparse(np.eye(30, 50, dtype=np.float32))
    with as_users_compile():
        text = jax.jit(times).lower(laid, jnp.ones((50, 4))).compile().as_text()
    assert text.count(" conditional(") == 2


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


@pytest.mark.parametrize("norm", ["none", "layer", "matrix"])
def test_g3_gat_is_its_formula_and_its_last_heads_are_averaged_per_node_and_class(norm):
    """G3: the authors' GAT took the mean of its last heads over nodes and classes too, one number for all. Norms run over the
    features of all heads."""
    model = GAT((4, 2), CLASSES, heads=3, norm=norm)
    params, graph = weights(model)
    h = X[:, None]
    for name, width in (("hidden_0", 4), ("hidden_1", 2)):
        h = (dense_attention(h, params[name]) + params[name]["bias"]).reshape(len(X), -1)
        h = dense_norm(h, norm) if norm == "layer" else h
        h = np.where(h > 0, h, np.expm1(h))
        h = (dense_norm(h, norm) if norm == "matrix" else h).reshape(len(X), 3, width)
        assert h.shape == (len(X), 3, width), "heads are concatenated inside"
    expected = dense_attention(h, params["output"]).mean(axis=1) + params["output"]["bias"]
    found = model.apply({"params": params}, graph)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert (
        found.shape == (len(X), CLASSES)
        and np.std(found, axis=0).min() > 0.1
        and np.std(found, axis=1).min() > 0.01
    )


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
    for model in (
        GCN((6,), CLASSES, dropout=0.5),
        GraphSAGE((6,), CLASSES, dropout=0.5),
        GAT((6,), CLASSES, dropout=0.5),
    ):
        params, graph = weights(model)
        off, again = (model.apply({"params": params}, graph) for _ in range(2))
        on = model.apply({"params": params}, graph, rngs={"dropout": ROOT})
        np.testing.assert_array_equal(off, again)
        assert np.abs(on - off).max() > 0.1


@pytest.mark.parametrize("kind", [GCN, GraphSAGE, GAT])
def test_dropout_may_leave_the_input_out(kind):
    """Then the first layer is as in evaluation, and the second is not."""
    graph = graph_dataset(first_product=FIRST_PRODUCTS[kind]).arrays("test")["graph"]
    seen = {}
    for of_input in (True, False):
        model = kind((6,), CLASSES, dropout=0.5, input_dropout=of_input)
        params = model.init(ROOT, graph)
        for rngs in ({}, {"dropout": ROOT}):
            _, found = model.apply(params, graph, rngs=rngs, capture_intermediates=True)
            seen[of_input, bool(rngs)] = [
                found["intermediates"][name]["__call__"][0] for name in ("hidden_0", "output")
            ]
    same = lambda of_input, layer: np.array_equal(
        seen[of_input, True][layer], seen[of_input, False][layer]
    )
    assert [same(True, 0), same(True, 1), same(False, 0), same(False, 1)] == [
        False,
        False,
        True,
        False,
    ]


def test_dropout_of_sparse_entries_is_one_matrix_in_both_layouts_and_keeps_its_share():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)
    matrix[3] = 1.0
    laid = sparse(matrix.astype(np.float32))
    dense = lambda found: np.asarray(times(found, jnp.eye(50)))
    dropped = drop_entries(laid, 0.25, ROOT)
    (transposed,) = jax.vjp(lambda kernel: times(dropped, kernel), jnp.zeros((50, 60)))[1](
        jnp.eye(60)
    )
    np.testing.assert_allclose(dense(dropped), transposed.T, atol=1e-6)
    kept = dense(dropped)[matrix != 0] != 0
    assert (
        0.7 < kept.mean() < 0.8
        and (dense(drop_entries(laid, 0.25, jax.random.key(9)))[matrix != 0] != 0).sum() > 0
    )
    np.testing.assert_allclose(
        dense(dropped)[matrix != 0][kept], matrix[matrix != 0][kept] / 0.75, rtol=1e-5
    )
    other = dense(drop_entries(laid, 0.25, jax.random.key(9)))[matrix != 0] != 0
    assert 0.5 < (kept == other).mean() < 0.75, "another key, other entries"


def test_dropout_of_dense_features_is_that_of_sparse_ones_and_of_every_layer_its_own():
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)).astype(np.float32)
    dense = dropped(jnp.asarray(matrix), 0.25, ROOT)
    np.testing.assert_allclose(
        times(dropped(sparse(matrix), 0.25, ROOT), jnp.eye(50)), dense, rtol=1e-6
    )
    pair = dropped(jnp.ones((400, 2, 30)), 0.25, ROOT)
    assert (
        set(np.unique(pair)) == {0.0, np.float32(1 / 0.75)}
        and 0.73 < (np.asarray(pair) > 0).mean() < 0.77
    )
    alike = lambda a, b: ((np.asarray(a) > 0) == (np.asarray(b) > 0)).mean()
    independent = 0.75**2 + 0.25**2
    for other in (
        pair[:, ::-1],
        pair[::-1],
        jnp.roll(pair, 1, 2),
        dropped(jnp.ones((400, 2, 30)), 0.25, jax.random.key(9)),
    ):
        assert abs(alike(pair, other) - independent) < 0.015
    np.testing.assert_array_equal(dropped(jnp.ones((4, 3)), 0.5, None), 1.0)


@pytest.mark.parametrize("model,make", [(GCN, gcn), (GraphSAGE, sage)])
def test_scaling_is_of_what_reads_dealt_features_in_the_full_model_alone(model, make):
    """The last hidden layer is whole here: its sums are as long in a subnetwork."""
    options = dict(num_subnets=4, split_output=False, scaling="keep")
    split = make(model((8, 6), CLASSES, norm="none"), FEATURES, **options)
    assert (
        split.full.module.sum_scales == split.padded.module.sum_scales == (1.0, 0.25, 1.0)
        and split.subnet.module.sum_scales == ()
    )
    params, graph = weights(split.full.module)
    quarter = params["hidden_1"] | {"kernel": 0.25 * params["hidden_1"]["kernel"]}
    expected = split.subnet.module.clone(hidden=(8, 6)).apply(
        {"params": params | {"hidden_1": quarter}}, graph
    )
    np.testing.assert_allclose(split.full.apply(params, graph), expected, rtol=1e-4, atol=1e-5)
