"""Law 12: a Linen and an NNX model of one network are the same; what an NNX model refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, ROOT, SGD, TASK, also_slowly, params_of, random_params, rounds
from custom_models import EXAMPLE, FEATURES
from flax import nnx
from laws import assert_close
from twins import TWINS, NnxCustom, NnxTransformer

from ist_jax import ist
from ist_jax.core.trees import leaf_names
from ist_jax.methods import Start
from ist_jax.models import BatchNorm, NnxBatchNorm, as_model, linen
from ist_jax.models import nnx as nnx_model

X = np.random.default_rng(0).normal(size=(6, FEATURES)).astype(np.float32)


@functools.cache
def decompositions(network):
    return [TWINS[network].decomposition(name, 2) for name in ("linen", "nnx")]


def start_params(network):
    """Random parameters, in Linen and in NNX."""
    in_linen = random_params(decompositions(network)[0])
    return in_linen, TWINS[network].to_nnx(in_linen)


def assert_same(network, in_linen, in_nnx):
    jax.tree.map(np.testing.assert_array_equal, TWINS[network].to_nnx(in_linen), in_nnx)


@pytest.mark.parametrize("network", also_slowly(["mlp", "transformer"], TWINS))
def test_law_12_logits_and_gradients_have_the_same_bits(network):
    def computed(model, params):
        loss = lambda params: (model.apply(params, X) ** 2).mean()
        return model.apply(params, X), jax.grad(loss)(params)

    models = [split.full for split in decompositions(network)]
    results = [
        jax.jit(functools.partial(computed, m))(p) for m, p in zip(models, start_params(network))
    ]
    (logits_BxC, in_linen), (nnx_logits_BxC, in_nnx) = results
    np.testing.assert_array_equal(logits_BxC, nnx_logits_BxC)
    assert np.ptp(logits_BxC) > 0.1
    assert_same(network, in_linen, in_nnx)


@pytest.mark.slow
@pytest.mark.parametrize("network", TWINS)
def test_law_12_two_rounds_have_the_same_bits(network):
    ends = []
    for split, params in zip(decompositions(network), start_params(network)):
        method = ist(split, TASK, SGD, batch_size=BATCH)
        state, metrics = rounds(method, 2, start=Start(params))
        ends.append((params_of(method, state), metrics["loss_SxJ"]))
    (in_linen, loss_SxJ), (in_nnx, nnx_loss_SxJ) = ends
    np.testing.assert_array_equal(loss_SxJ, nnx_loss_SxJ)
    assert_same(network, in_linen, in_nnx)


def test_measured_statistics_are_the_same():
    """Also where they are used: every prediction then depends on its example alone."""

    @functools.partial(jax.jit, static_argnums=0)
    def compute(model, params):
        stats = model.measure(params, X)
        logits = model.apply(params, X), model.apply(params, X[:2])
        return stats["norm"], *logits, model.apply(params, X[:2], stats=stats)

    models = [split.full for split in decompositions("mlp")]
    results = [compute(*each) for each in zip(models, start_params("mlp"))]
    (in_linen, *_), (in_nnx, logits, of_two, calibrated) = results
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.ravel(), b), in_linen, in_nnx)
    assert_close(calibrated, logits[:2])
    assert np.abs(of_two - logits[:2]).max() > 1e-2
    assert decompositions("transformer")[1].full.measure(start_params("transformer")[1], X) == {}


def dropout_model(rate=0.5):
    return nnx_model(lambda rngs: NnxTransformer(2, 8, rate, rngs=rngs))


def test_dropout_is_on_with_a_key_and_reproducible_by_it():
    model, without = dropout_model(), dropout_model(0.0)

    @jax.jit
    def outputs(key):
        params = without.init(ROOT, EXAMPLE)
        off = [model.apply(params, X), without.apply(params, X), without.apply(params, X, key=key)]
        return model.apply(params, X, key=key), off

    (on, off), (again, _), (other, _) = (outputs(key) for key in (ROOT, ROOT, jax.random.key(9)))
    np.testing.assert_array_equal(on, again)
    assert (on != other).any() and (on != off[0]).any()
    for outputs_without_dropout in off[1:]:
        np.testing.assert_array_equal(outputs_without_dropout, off[0])


def test_streams_have_different_random_numbers():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = rngs.noise.fork(), rngs.noise.fork()

        def __call__(self, x):
            return jnp.stack([jax.random.normal(s(), x.shape) for s in (self.first, self.second)])

    first, second = nnx_model(Noisy).apply({}, X, key=ROOT)
    assert (first != second).all()


def test_parameters_are_a_nested_dict_drawn_by_key():
    model = nnx_model(lambda rngs: NnxCustom(4, 2, rngs=rngs))
    params = model.init(ROOT, EXAMPLE)
    assert leaf_names(params)[:2] == ["branches/0/kernel", "branches/1/bias"]
    jax.tree.map(np.testing.assert_array_equal, params, model.init(ROOT, EXAMPLE))
    other = model.init(jax.random.key(9), EXAMPLE)
    assert (params["head"]["kernel"] != other["head"]["kernel"]).all()


class Layer(nnx.Module):
    """A layer of a stack, with a norm and dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(FEATURES, FEATURES, rngs=rngs)
        self.norm = NnxBatchNorm(FEATURES, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(self.linear(x)))


class Stacked(nnx.Module):
    """Three layers as one loop; their parameters have a leading axis of 3."""

    def __init__(self, rngs: nnx.Rngs):
        make = nnx.vmap(Layer, in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=3)(make)(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        loop = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return loop(self.layers, x)


class Unrolled(nnx.Module):
    """The same layers, one after another."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([Layer(rngs) for _ in range(3)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_loop_over_layers_computes_what_unrolled_layers_do():
    @jax.jit
    def compute():
        looped, unrolled = nnx_model(Stacked), nnx_model(Unrolled)
        params = looped.init(ROOT, EXAMPLE)
        layer = lambda i: jax.tree.map(lambda leaf: leaf[i], params["layers"])
        layers = {"layers": {str(i): layer(i) for i in range(3)}}
        stats = looped.measure(params, X)
        expected = unrolled.measure(layers, X)["layers"]["2"]["norm"]["mean"]
        pairs = [
            (stats["layers"]["norm"]["mean"][2], expected),
            (looped.apply(params, X), unrolled.apply(layers, X)),
            (looped.apply(params, X[:1], stats=stats), unrolled.apply(layers, X)[:1]),
        ]
        return pairs, looped.apply(params, X, key=ROOT)

    pairs, dropped = compute()
    for actual, expected in pairs:
        assert_close(actual, expected)
    assert 0.3 < (dropped == 0).mean() < 0.7


def test_running_statistics_and_other_arrays_are_refused():
    class Running(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)

    class Table(nnx.Module):
        def __init__(self, rngs):
            self.table = jnp.ones(3)
            self.counts = nnx.Variable(jnp.ones(3))

    with pytest.raises(ValueError, match="it has norm/mean .BatchStat., .*use .*NnxBatchNorm"):
        nnx_model(Running).init(ROOT, EXAMPLE)
    with pytest.raises(ValueError, match="counts .Variable., table .array.: compute it in __call"):
        nnx_model(Table).init(ROOT, EXAMPLE)


def test_an_nnx_module_is_told_how_to_become_a_model():
    with pytest.raises(TypeError, match="such as NnxBatchNorm, .*: pass ist_jax.models.nnx.make."):
        as_model(NnxBatchNorm(3))
    assert as_model(dropout_model()).apply.__self__.make(nnx.Rngs(0)).dropout.rate == 0.5


def test_batch_norm_is_that_of_linen_in_every_dtype():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(X, dtype).reshape(2, 3, FEATURES)
        module = linen(nn.Sequential([BatchNorm()]))
        params = jax.tree.map(lambda leaf: leaf + 0.5, module.init(ROOT, x))
        ours = nnx_model(lambda rngs: NnxBatchNorm(FEATURES, rngs=rngs))
        result = ours.apply(params["layers_0"], x)
        np.testing.assert_array_equal(module.apply(params, x), result)
        assert result.dtype == dtype
    plain = nnx_model(lambda rngs: NnxBatchNorm(FEATURES, affine=False))
    assert plain.init(ROOT, x) == {}
    assert_close(plain.apply({}, X).mean(axis=0), np.zeros(FEATURES))
