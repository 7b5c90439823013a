"""Learning rates of a configuration: where they fall, with and without a warm-up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import assert_close

from ist_jax.cli import optimizers
from ist_jax.cli.config import Config
from ist_jax.core.trees import leaf_names, leaf_shapes
from ist_jax.models import Transformer


def rates(schedule, warmup):
    """float[100]: the rate of every step of a run."""
    config = dataclasses.replace(
        Config().optimizer, schedule=schedule, learning_rate=0.4, warmup=warmup
    )
    return np.asarray(optimizers.schedule(config, 100)(np.arange(100)))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("name,falls", [("step", (50, 75)), ("thirds", (33, 66))])
def test_the_rate_falls_at_its_shares_of_the_run_whatever_the_warm_up(name, falls, warmup):
    """With a warm-up of 10 %, schedule=step fell at 55 % and 78 %."""
    after = np.arange(round(100 * warmup), 100)  # a fall within the warm-up comes at its end
    expected = 0.4 * 0.1 ** sum((after >= fall).astype(float) for fall in falls)
    np.testing.assert_allclose(rates(name, warmup)[after], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_smooth_decay_spans_what_is_left_after_the_warm_up(name):
    rate = rates(name, 0.2)
    np.testing.assert_allclose(rate[[0, 10, 20, 60]], [0.0, 0.2, 0.4, 0.2], atol=1e-6)
    assert 0 < rate[99] < 0.01


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_nadamw():
    rng = np.random.default_rng(0)
    params, gradient = (
        {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes}
        for shapes in 2 * [(("kernel", (16, 8)), ("bias", (8,)), ("stack", (2, 4, 4)))]
    )
    options = dict(learning_rate=0.01, weight_decay=0.1)
    config = dataclasses.replace(Config().optimizer, name="muon", **options)
    muon, nadamw = optimizers.local_optimizer(config, 10), optax.nadamw(**options)
    update, expected = (
        jax.jit(lambda tx=tx: tx.update(gradient, tx.init(params), params)[0])()
        for tx in (muon, nadamw)
    )
    for name in ("bias", "stack"):
        np.testing.assert_allclose(update[name], expected[name], rtol=1e-5)
    step = np.asarray(update["kernel"] + 0.01 * 0.1 * params["kernel"])  # without the decay
    sizes = np.linalg.svd(step, compute_uv=False)
    assert sizes.max() < 2 * sizes.min(), "those of the gradient differ by more than a factor 2"
    given = np.linalg.svd(gradient["kernel"], compute_uv=False)
    assert given.max() > 2 * given.min()
    rms = np.sqrt((step**2).mean()) / 0.01
    assert 0.1 < rms < 0.3, "0.2 is that of AdamW"


def test_muon_orthogonalises_the_kernels_of_transformers_and_no_others():
    """Stacked layers are updated as separate ones are; embeddings and norms by NAdamW."""
    fields = dict(layers=2, width=8, heads=4, kv_heads=2, mlp_width=12)
    stacked, unrolled = (Transformer(11, 4, scan=scan, **fields) for scan in (True, False))
    tokens = np.zeros((1, 4), np.int32)
    of = lambda model: jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    params, gradient = (jax.tree.map(draw, of(stacked)) for _ in range(2))
    layer = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree["layers"])
    apart = lambda tree: {
        **{name: leaf for name, leaf in tree.items() if name != "layers"},
        **{f"layer_{i}": layer(tree, i) for i in range(2)},
    }
    assert leaf_shapes(apart(params)) == leaf_shapes(of(unrolled))
    tx = optimizers.muon(optax.constant_schedule(0.01), 0.1)
    nadamw = optax.nadamw(0.01, weight_decay=0.1)
    step = lambda tx: jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])
    update, expected = step(tx)(gradient, params), step(nadamw)(gradient, params)
    assert_close(apart(update), step(tx)(apart(gradient), apart(params)), 1e-3, 1e-5)
    is_adam = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4), update, expected)
    named = dict(zip(leaf_names(update), jax.tree.leaves(is_adam)))
    assert all(adam == (not name.endswith("/kernel")) for name, adam in named.items()), named
    assert sum(named.values()) == 4, "the embedding and three norms"
