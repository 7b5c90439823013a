"""Graph networks against dense formulas, and their dropout and norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CLASSES,
    FEATURES,
    FIRST_PRODUCTS,
    ROOT,
    graph_dataset,
    random_params,
    raw_graph,
)
from graph_cases import DENSE, X, dense_norm, dense_symmetric, random_weights

from ist_jax.decompositions import gat, gcn, sage
from ist_jax.models import GAT, GCN, GraphSAGE
from ist_jax.models.graphs import dropout, dropout_entries, normalise
from ist_jax.models.spmm import sparse_matrix, spmm


@pytest.mark.parametrize("norm", ["none", "layer", "matrix"])
@pytest.mark.parametrize("features", ["dense", "sparse"])
def test_gcn_is_its_formula(norm, features):
    """Kipf and Welling: A (relu(A X W0 + b0)) W1 + b1 ..., with either order of products."""
    model = GCN((6, 20), CLASSES, norm=norm)
    params, graph = random_weights(model)
    if features == "sparse":
        graph = graph._replace(features=sparse_matrix(X))
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
def test_a_graph_laid_out_for_another_depth_raises_an_error(model, first):
    graph = graph_dataset(raw_graph(), first_product=first, layers=2).arrays("train")["graph"]
    with pytest.raises(
        ValueError, match="laid out for 1 sums over neighbours, and the model has 2"
    ):
        jax.eval_shape(model.init, jax.random.key(0), graph)


@pytest.mark.parametrize("norm", ["layer", "matrix", "none"])
def test_graphsage_is_its_formula(norm):
    """Hamilton et al.: W (h, mean of neighbours) + b.

    The norm 'layer' is before the activation, 'matrix' after it; without neighbours the mean is 0.
    """
    model = GraphSAGE((6, 9), CLASSES, norm=norm)
    params, graph = random_weights(model)
    mean, h = DENSE / np.maximum(DENSE.sum(axis=1, keepdims=True), 1), X

    def layer(h, p):
        return h @ p["kernel"][0] + mean @ h @ p["kernel"][1] + p["bias"]

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
    """The gradient is explicit in the code. One row is nearly constant."""
    rng = np.random.default_rng(0)
    h, g = (jnp.asarray(rng.normal(size=(9, 7)), jnp.float32) for _ in range(2))
    h = h.at[3].multiply(1e-3)
    formula = lambda h: (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + epsilon)
    expected, expected_pull = jax.vjp(formula, h)
    y, pull = jax.vjp(lambda h: normalise(h, "layer", None, epsilon), h)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], expected_pull(g)[0], rtol=1e-3, atol=1e-4)


@np.errstate(invalid="ignore")  # which some matrix products of numpy report of finite numbers
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
    """G3: the authors' GAT averaged its last heads over nodes and classes, too: one number for all.

    Norms run over the features of all heads.
    """
    model = GAT((4, 2), CLASSES, heads=3, norm=norm)
    params, graph = random_weights(model)
    h = X[:, None]
    for name, width in (("hidden_0", 4), ("hidden_1", 2)):
        h = (dense_attention(h, params[name]) + params[name]["bias"]).reshape(len(X), -1)
        h = dense_norm(h, norm) if norm == "layer" else h
        h = np.where(h > 0, h, np.expm1(h))
        h = (dense_norm(h, norm) if norm == "matrix" else h).reshape(len(X), 3, width)
        assert h.shape == (len(X), 3, width), "heads are concatenated inside"
    expected = dense_attention(h, params["output"]).mean(axis=1) + params["output"]["bias"]
    logits = model.apply({"params": params}, graph)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    assert logits.shape == (len(X), CLASSES)
    assert np.std(logits, axis=0).min() > 0.1 and np.std(logits, axis=1).min() > 0.01


def test_gat_does_not_hold_the_features_of_all_edges_at_once():
    """In a complete graph of 60 nodes, a gradient needs far less than edges x heads x features."""
    nodes, heads, width = 60, 4, 64
    pairs = np.stack(np.triu_indices(nodes, 1))
    graph = graph_dataset(raw_graph(nodes, edges_2xE=pairs)).arrays("test")["graph"]
    model = GAT((width,), CLASSES, heads=heads)
    params = random_params(gat(model, FEATURES, num_subnets=1))
    gradient = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, graph) ** 2).sum()))
    num_bytes = gradient.lower(params).compile().memory_analysis().temp_size_in_bytes
    assert num_bytes < 4 * 2 * pairs.shape[1] * heads * width / 2


def test_dropout_is_on_with_a_key_and_off_without():
    for model in (
        GCN((6,), CLASSES, dropout=0.5),
        GraphSAGE((6,), CLASSES, dropout=0.5),
        GAT((6,), CLASSES, dropout=0.5),
    ):
        params, graph = random_weights(model)
        off, again = (model.apply({"params": params}, graph) for _ in range(2))
        on = model.apply({"params": params}, graph, rngs={"dropout": ROOT})
        np.testing.assert_array_equal(off, again)
        assert np.abs(on - off).max() > 0.1


@pytest.mark.parametrize("kind", [GCN, GraphSAGE, GAT])
def test_dropout_may_leave_the_input_out(kind):
    """Then the first layer is as in evaluation; the second is not."""
    graph = graph_dataset(first_product=FIRST_PRODUCTS[kind]).arrays("test")["graph"]
    for input_dropout in (True, False):
        model = kind((6,), CLASSES, dropout=0.5, input_dropout=input_dropout)
        params, layers = model.init(ROOT, graph), []
        for rngs in ({}, {"dropout": ROOT}):
            _, state = model.apply(params, graph, rngs=rngs, capture_intermediates=True)
            outputs = state["intermediates"]
            layers.append([outputs[name]["__call__"][0] for name in ("hidden_0", "output")])
        is_same = [np.array_equal(off, on) for off, on in zip(*layers)]
        assert is_same == [not input_dropout, False]


def test_dropout_of_sparse_entries_drops_the_same_in_rows_and_columns_and_keeps_its_share():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)
    matrix[3] = 1.0
    stored = sparse_matrix(matrix.astype(np.float32))
    dense = lambda matrix: np.asarray(spmm(matrix, jnp.eye(50)))
    remaining = dropout_entries(stored, 0.25, ROOT)
    (transposed,) = jax.vjp(lambda kernel: spmm(remaining, kernel), jnp.zeros((50, 60)))[1](
        jnp.eye(60)
    )
    np.testing.assert_allclose(dense(remaining), transposed.T, atol=1e-6)
    kept = dense(remaining)[matrix != 0] != 0
    assert (
        0.7 < kept.mean() < 0.8
        and (dense(dropout_entries(stored, 0.25, jax.random.key(9)))[matrix != 0] != 0).sum() > 0
    )
    np.testing.assert_allclose(
        dense(remaining)[matrix != 0][kept], matrix[matrix != 0][kept] / 0.75, rtol=1e-5
    )
    other = dense(dropout_entries(stored, 0.25, jax.random.key(9)))[matrix != 0] != 0
    assert 0.5 < (kept == other).mean() < 0.75, "another key, other entries"


def test_dropout_drops_the_same_of_dense_and_sparse_features_and_independently_with_each_key():
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(60, 50)) * (rng.random((60, 50)) < 0.3)).astype(np.float32)
    dense = dropout(jnp.asarray(matrix), 0.25, ROOT)
    np.testing.assert_allclose(
        spmm(dropout(sparse_matrix(matrix), 0.25, ROOT), jnp.eye(50)), dense, rtol=1e-6
    )
    pair = dropout(jnp.ones((400, 2, 30)), 0.25, ROOT)
    assert (
        set(np.unique(pair)) == {0.0, np.float32(1 / 0.75)}
        and 0.73 < (np.asarray(pair) > 0).mean() < 0.77
    )

    def alike(a, b):
        return ((np.asarray(a) > 0) == (np.asarray(b) > 0)).mean()

    independent = 0.75**2 + 0.25**2
    for other in (
        pair[:, ::-1],
        pair[::-1],
        jnp.roll(pair, 1, 2),
        dropout(jnp.ones((400, 2, 30)), 0.25, jax.random.key(9)),
    ):
        assert abs(alike(pair, other) - independent) < 0.015
    np.testing.assert_array_equal(dropout(jnp.ones((4, 3)), 0.5, None), 1.0)


@pytest.mark.parametrize("model,make", [(GCN, gcn), (GraphSAGE, sage)])
def test_scaling_affects_only_the_full_models_layers_that_read_split_features(model, make):
    """The last hidden layer is shared here, so that its sums are as long in a subnetwork."""
    options = dict(num_subnets=4, split_output=False, scaling="keep")
    split = make(model((8, 6), CLASSES, norm="none"), FEATURES, **options)
    assert (
        split.full.module.sum_scales == split.padded.module.sum_scales == (1.0, 0.25, 1.0)
        and split.subnet.module.sum_scales == ()
    )
    params, graph = random_weights(split.full.module)
    quarter = params["hidden_1"] | {"kernel": 0.25 * params["hidden_1"]["kernel"]}
    expected = split.subnet.module.clone(hidden=(8, 6)).apply(
        {"params": params | {"hidden_1": quarter}}, graph
    )
    np.testing.assert_allclose(split.full.apply(params, graph), expected, rtol=1e-4, atol=1e-5)
