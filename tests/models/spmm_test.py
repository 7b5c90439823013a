"""Products of sparse matrices and graphs against their definition and dense matrices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT, as_users_compile, graph_dataset
from graph_cases import DENSE

from ist_jax.models.graphs import dropout_entries
from ist_jax.models.spmm import segment_sum_spmm, sparse_matrix, spmm


def random_sparse(density, shape=(40, 70)):
    """A random matrix, in which a row is full and another empty."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=shape) * (rng.random(shape) < density)
    matrix[3], matrix[4] = 1.0, 0.0
    return matrix.astype(np.float32)


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_a_product_and_its_gradient_are_those_of_the_dense_matrix(density):
    matrix, rng = random_sparse(density), np.random.default_rng(1)
    stored, kernel = sparse_matrix(matrix), jnp.asarray(rng.normal(size=(70, 4)), jnp.float32)
    assert stored.shape == (40, 70)
    assert density > 0.5 or len(stored.rows.column) > 1, "the full row has its own bucket"
    product, pull = jax.vjp(lambda kernel: spmm(stored, kernel), kernel)
    np.testing.assert_allclose(product, matrix @ kernel, rtol=1e-4, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=(40, 4)), jnp.float32)
    np.testing.assert_allclose(pull(cotangent)[0], matrix.T @ cotangent, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(spmm(matrix, kernel), matrix @ kernel, "a dense one as it is")


@pytest.mark.parametrize("kind", ["thin", "dense", "graph"])
def test_a_product_and_its_gradient_are_those_of_gathers_and_a_segment_sum(kind):
    graph = graph_dataset().arrays("test")["graph"]
    assert len(graph.receiver_R), "a node has more neighbours than a row holds"
    matrix = graph
    if kind != "graph":
        matrix = sparse_matrix(random_sparse({"thin": 0.05, "dense": 0.6}[kind], (40, 40)))
    h, g = (jax.random.normal(jax.random.key(i), (40, 3)) for i in (0, 1))
    product, pull = jax.vjp(lambda h: spmm(matrix, h), h)
    expected, expected_pull = jax.vjp(lambda h: segment_sum_spmm(matrix, h), h)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], expected_pull(g)[0], rtol=1e-5, atol=1e-5)


def test_the_sum_over_neighbours_and_its_gradient_are_those_of_the_dense_matrix():
    graph = graph_dataset().arrays("test")["graph"]
    h, g = (jax.random.normal(jax.random.key(i), (len(DENSE), 3)) for i in (0, 1))
    product, pull = jax.vjp(lambda h: spmm(graph, h), h)
    np.testing.assert_allclose(product, DENSE @ h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], DENSE.T @ g, rtol=1e-5, atol=1e-5)


def test_products_of_all_subnetworks_at_once_are_those_of_each():
    """With shared entries, with entries that differ (dropout), and with shared kernels."""
    rng = np.random.default_rng(0)
    stored = sparse_matrix(np.where(rng.random((30, 50)) < 0.1, 1.0, 0.0).astype(np.float32))
    kernel_S = jnp.asarray(rng.normal(size=(3, 50, 4)), jnp.float32)
    keys = jax.random.split(ROOT, 3)

    def product(key, kernel):
        return spmm(dropout_entries(stored, 0.5, key), kernel)

    gradient = jax.grad(lambda kernel, key: (product(key, kernel) ** 2).sum())

    def back(key, kernel):
        return gradient(kernel, key)

    for f, axes in itertools.product((product, back), ((0, 0), (0, None), (None, 0))):
        given = [values if axis == 0 else values[0] for values, axis in zip((keys, kernel_S), axes)]
        together = jax.jit(jax.vmap(f, in_axes=axes))(*given)
        for s in range(3):
            alone = [x if axis is None else x[s] for x, axis in zip(given, axes)]
            np.testing.assert_allclose(together[s], f(*alone), rtol=1e-4, atol=1e-5)


def test_optimised_programs_compute_each_product_once():
    """Behind a condition that XLA keeps: one for the sums of a product and one for their order."""
    stored = sparse_matrix(np.eye(30, 50, dtype=np.float32))
    with as_users_compile():
        text = jax.jit(spmm).lower(stored, jnp.ones((50, 4))).compile().as_text()
    assert text.count(" conditional(") == 2
