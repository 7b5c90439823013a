"""Transformers against a plain NumPy forward pass, and the equalities that options must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from ist_jax.core.model import Training
from ist_jax.models import Transformer, generate, linen
from ist_jax.models.experts import Experts, balance_loss

LENGTH, VOCABULARY = 6, 12
TOKENS = np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])


def small(**fields):
    """Two layers, four heads of which two share their keys and values."""
    fields = dict(layers=2, width=8, heads=4, kv_heads=2, mlp_width=10) | fields
    return Transformer(VOCABULARY, LENGTH, **fields)


@functools.cache
def fresh(model):
    """Random parameters, no two entries equal."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def program(model):
    return jax.jit(linen(model).apply)


def logits_of(model, params):
    return program(model)(params, TOKENS)


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def rotary(x_LxH):
    """Features i and i + H / 2 as the real and imaginary part of a number, turned by an angle."""
    length, size = x_LxH.shape
    number = x_LxH[:, : size // 2] + 1j * x_LxH[:, size // 2 :]
    rate = 10_000.0 ** (-2 * np.arange(size // 2) / size)
    number = number * np.exp(1j * np.arange(length)[:, None] * rate)
    return np.concatenate([number.real, number.imag], axis=1)


def head(x_LxD, query, key, value, output):
    q, k, v = rotary(x_LxD @ query), rotary(x_LxD @ key), x_LxD @ value
    score = q @ k.T / np.sqrt(q.shape[1])
    score[np.triu_indices(len(score), 1)] = -np.inf
    return softmax(score, axis=1) @ v @ output


def numpy_forward(params, tokens_L):
    """Logits of one sequence, head by head."""
    embedding = params["embedding"]["embedding"]
    x = embedding[tokens_L]
    for i in range(2):
        p = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        kernel = {name: leaf["kernel"] for name, leaf in p["attention"].items()}
        h = rms(x, p["attention_norm"]["scale"])
        for k in range(2):
            for g in range(2):
                own = kernel["query"][:, k, g], kernel["key"][:, k], kernel["value"][:, k]
                x = x + head(h, *own, kernel["output"][k, g])
        h, mlp = rms(x, p["mlp_norm"]["scale"]), p["mlp"]
        gate = h @ mlp["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ mlp["up"]["kernel"])) @ mlp["down"]["kernel"]
    return rms(x, params["output_norm"]["scale"]) @ embedding.T


def test_logits_are_those_of_a_plain_numpy_forward_pass():
    params = fresh(small())
    expected = [numpy_forward(params, tokens) for tokens in TOKENS]
    np.testing.assert_allclose(logits_of(small(), params), expected, rtol=2e-3, atol=2e-3)


def test_grouped_heads_are_heads_with_repeated_keys_and_values():
    params = fresh(small())
    kernels = {name: leaf["kernel"] for name, leaf in params["layers"]["attention"].items()}
    query, output = kernels["query"], kernels["output"]
    repeated = {
        "query": query.reshape(2, 8, 4, 1, 2),
        "key": np.repeat(kernels["key"], 2, axis=2),
        "value": np.repeat(kernels["value"], 2, axis=2),
        "output": output.reshape(2, 4, 1, 2, 8),
    }
    attention = {name: {"kernel": kernel} for name, kernel in repeated.items()}
    every = params | {"layers": params["layers"] | {"attention": attention}}
    np.testing.assert_allclose(
        logits_of(small(kv_heads=4), every), logits_of(small(), params), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param(dict(experts=4), marks=pytest.mark.slow),
        pytest.param(dict(positions="learned", norm="layer"), marks=pytest.mark.slow),
    ],
)
def test_logits_do_not_depend_on_later_tokens(fields):
    """The gradient by the embedding of a later token is exactly zero; tokens are all different."""
    model = small(tied=False, **fields)
    loss = lambda params, place: linen(model).apply(params, TOKENS)[0, place].sum()
    gradient = jax.jit(jax.grad(loss))
    for place in (0, 3):
        of_token = np.abs(gradient(fresh(model), place)["embedding"]["embedding"]).max(axis=1)
        assert of_token[: place + 1].all(), "earlier tokens and the token itself count"
        assert not of_token[place + 1 :].any(), "later ones and other sequences do not"


def gradient_of(model, params):
    loss = lambda params: (linen(model).apply(params, TOKENS) ** 2).mean()
    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


def unrolled(params):
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(2)]
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    return rest | {f"layer_{i}": layer for i, layer in enumerate(layers)}


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, dict(remat="dots"), dict(experts=4, remat="full")])
def test_a_loop_over_layers_and_recomputed_activations_change_nothing(fields):
    """The loop, with or without remat, has the loss and the gradient of unrolled layers."""
    params = fresh(small(**fields))
    loss, gradient = gradient_of(small(**fields), params)
    expected = gradient_of(small(**fields | dict(scan=False, remat="none")), unrolled(params))
    assert_close((loss, unrolled(gradient)), expected)


@pytest.mark.slow
def test_dropout_needs_a_key_and_differs_between_layers():
    model = linen(small(dropout=0.5))
    apply = jax.jit(model.apply)
    params, keys = fresh(small(dropout=0.5)), jax.random.split(jax.random.key(0))
    first, again, other = (apply(params, TOKENS, key=key) for key in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(apply(params, TOKENS), logits_of(small(), params))


@pytest.mark.slow
def test_computation_in_bfloat16_is_close_and_its_logits_are_float32():
    params = fresh(small())
    logits = logits_of(small(dtype=jnp.bfloat16), params)
    assert logits.dtype == jnp.float32
    expected = logits_of(small(), params)
    assert 0 < np.abs(logits - expected).mean() < 0.1 * np.abs(expected).mean()


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="at most context=6 tokens, but this one has 7"):
        jax.eval_shape(small().init, jax.random.key(0), np.zeros((1, 7), np.int32))


@pytest.mark.parametrize(
    "fields,says",
    [
        (dict(positions="rope"), r"positions is one of \('rotary', 'learned'\), not 'rope'"),
        (dict(norm="batch"), "norm is one of .*, not 'batch'"),
        (dict(kv_heads=3), "kv_heads=3 must divide heads=4: use a divisor"),
        (dict(head_dim=3), "a head has 3: use an even head_dim, or positions='learned'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(small(**fields).init, jax.random.key(0), TOKENS)


@pytest.mark.slow
def test_one_expert_is_an_mlp():
    """Every token is sent to it with weight 1."""
    model = small(experts=1, experts_per_token=1)
    params = fresh(model)
    mlp = jax.tree.map(lambda leaf: leaf[:, 0], params["layers"]["mlp"]["experts"])
    plain = params | {"layers": params["layers"] | {"mlp": mlp}}
    np.testing.assert_allclose(
        logits_of(model, params), logits_of(small(), plain), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_experts_serve_tokens_in_their_order_while_they_have_room():
    """Against a loop over tokens. Each of 3 experts has room for ceil(1.25 x 2 x 8 / 3) = 7."""
    module, rng = Experts(3, 2, 5, "relu"), np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 4)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    params["router"][:, 0] = 0.1  # so that the others are chosen more often
    up, down = (params["experts"][name]["kernel"] for name in ("up", "down"))
    expected, refused = np.zeros_like(x), 0
    for b, sequence in enumerate(x):
        served = np.zeros(3, int)
        for place, token in enumerate(sequence):
            share = softmax(token @ params["router"])
            for e in np.argsort(-share)[:2]:
                if served[e] < 7:
                    weight = share[e] / np.sort(share)[-2:].sum()
                    expected[b, place] += weight * np.maximum(token @ up[e], 0) @ down[e]
                refused += served[e] >= 7
                served[e] += 1
    assert refused, "an expert was full"
    actual = jax.jit(lambda params, x: module.apply({"params": params}, x))(params, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_balance_loss_is_one_if_all_experts_receive_equally_many_tokens():
    share = np.full((1, 4, 2), 0.5)
    equal, unequal = np.eye(2)[[[0], [1], [0], [1]]][None], np.eye(2)[[[0], [0], [0], [0]]][None]
    assert balance_loss(share, equal) == 1 and balance_loss(share, unequal) == 1
    assert balance_loss(np.eye(2)[[0, 0, 0, 0]][None], unequal) == 2, "all tokens to one of two"


def test_auxiliary_losses_are_recorded_in_training_only():
    model = small(experts=4, balance=3.0)

    @jax.jit
    def losses(params):
        training = Training(linen(model))
        training.apply(params, TOKENS)
        return training.losses

    (loss,) = losses(fresh(model))
    assert loss.shape == () and loss >= 2 * 3.0 * 0.9, "two layers, about 1 or more in each"
    plain = Training(linen(small()))
    jax.eval_shape(plain.apply, fresh(small()), TOKENS)
    assert not plain.losses, "there is nothing to balance"


def test_generated_tokens_are_the_likeliest_after_the_last_ones():
    """Without a temperature; the prompt and the new tokens are longer than the context."""
    model, params = small(), fresh(small())
    drawn = np.asarray(generate(model, params, TOKENS[:, :3], 5, jax.random.key(0), temperature=0))
    assert drawn.shape == (2, 8)
    np.testing.assert_array_equal(drawn[:, :3], TOKENS[:, :3])
    for place in range(3, 8):
        seen = drawn[:, max(0, place - LENGTH) : place]
        expected = [numpy_forward(params, tokens)[-1].argmax() for tokens in seen]
        np.testing.assert_array_equal(drawn[:, place], expected)


@pytest.mark.slow
def test_generated_tokens_depend_on_the_key():
    draw = lambda seed: generate(small(), fresh(small()), TOKENS[:, :3], 5, jax.random.key(seed))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (np.asarray(draw(0)) != np.asarray(draw(1))).any()
