"""Tokens and categories reach a model as integers; images and tables reach it as floats."""

import dataclasses

import flax.linen as nn
import numpy as np
import optax
import pytest

import ist_jax
from ist_jax import tasks
from ist_jax.cli.commands import evaluate
from ist_jax.cli.config import ConfigError
from ist_jax.data import DataError, Raw, Spec, make_dataset
from ist_jax.data.splits import shared

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 50, (80, 6))
Y = (TOKENS < 25).sum(axis=1) // 3


def made(x_train, x_test=None, standardise="none"):
    x_test = x_train[:20] if x_test is None else x_test
    raw = Raw(x_train, Y[: len(x_train)], x_test, Y[: len(x_test)])
    options = dict(source="here", validation_fraction=0.1, shards=shared)
    return make_dataset(raw, "x", standardise=standardise, **options)


def batch_of(data):
    return tasks.classification(data.mean, data.std).batch(data.train, np.arange(8), None)["x"]


class Embedded(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(50, self.width, name="tokens")(x).mean(axis=1)
        return nn.Dense(3, name="output")(x)


def test_a_network_with_an_embedding_trains():
    data = made(TOKENS)
    assert data.dtype == data.spec.dtype == "int32" and data.example.dtype == np.int32
    rules = [
        ("tokens/embedding", (None, "unit")),
        ("output/kernel", ("unit", None)),
        ("output/bias", None),
    ]
    net = ist_jax.decompose(
        rules,
        {"unit": 8},
        num_subnets=2,
        full=Embedded(8),
        subnet=Embedded(4),
        example=data.example,
    )
    task = tasks.classification(data.mean, data.std)
    method = ist_jax.ist(net, task, optax.adam(0.03), batch_size=8)
    results = ist_jax.run([ist_jax.Phase(method, 400, 5)], task, data)
    assert results.history[-1]["train"]["loss"] < 0.9 * results.history[0]["train"]["loss"]


@pytest.mark.parametrize(
    "x,standardise,dtype",
    [
        (TOKENS, "none", "int32"),
        (TOKENS.astype(np.int16), "none", "int32"),
        (TOKENS.astype(np.uint8), "none", "float32"),  # images
        (TOKENS, "whole", "float32"),
        (TOKENS + 0.5, "none", "float32"),
    ],
)
def test_integers_stay_integers_if_they_are_not_standardised(x, standardise, dtype):
    data = made(x, standardise=standardise)
    assert data.spec.dtype == batch_of(data).dtype == dtype
    if standardise == "none":
        np.testing.assert_array_equal(batch_of(data), data.train["x"][:8])


def test_test_inputs_have_the_dtype_of_training_inputs():
    data = made(TOKENS, TOKENS[:20].astype(np.uint8))
    assert data.test["x"].dtype == data.train["x"].dtype == np.int32
    assert made(TOKENS, TOKENS[:20] + 0.5).dtype == "float32"


def test_tokens_have_no_scale_that_could_be_odd():
    assert not made(TOKENS, TOKENS[:20] % 2).warnings


def test_integers_beyond_int32_are_refused():
    with pytest.raises(
        DataError, match="integer inputs must fit into int32, but some train inputs do"
    ):
        made(TOKENS + 2**31)


def test_a_model_is_evaluated_on_inputs_and_targets_of_its_kind():
    data = made(TOKENS)
    evaluate._check(data.spec, data)
    evaluate._check(data.spec._replace(num_classes=5), data)  # classes may be missing elsewhere
    numbers = dataclasses.replace(data, task="regression")
    for spec, given, says in (
        (data.spec, made(TOKENS, standardise="whole"), "takes int32 inputs, and x has float32"),
        (data.spec, numbers, "the model is for classification, and x is regression"),
        (numbers.spec._replace(num_classes=5), numbers, "has 5 outputs, and x needs 3"),
    ):
        with pytest.raises(ConfigError, match=f"{says}: choose other data"):
            evaluate._check(spec, given)


def test_a_spec_of_an_earlier_version_is_of_float_inputs():
    fields = Spec((2,), 3, 10, 0.0, 1.0, dtype="int32")._asdict()
    assert Spec.from_json(fields).dtype == "int32"
    assert Spec.from_json({n: v for n, v in fields.items() if n != "dtype"}).dtype == "float32"
    with pytest.raises(ValueError, match="float32 or int32, not 'object'"):
        Spec.from_json(fields | {"dtype": "object"})
