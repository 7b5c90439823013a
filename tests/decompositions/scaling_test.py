"""Sums over units in the full model: which need a factor is found, and `decompose` gives one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, DECOMPOSITIONS, SGD, TASK, dataset, random_params
from custom_models import CUSTOM_RULES, EXAMPLE, CustomModule, custom
from laws import assert_close
from twins import TWINS

from ist_jax import Phase, decompose, ensemble, ist, replicated, run
from ist_jax.core.scaled import ScaledModel
from ist_jax.core.subnet import extract, label_axes
from ist_jax.methods import scale_check
from ist_jax.methods.scale_check import scale_warning
from ist_jax.training import export
from ist_jax.training.method_warnings import method_warnings

SIZES = {"unit": 16, "head": 8}


def scaled(scale="keep", num_subnets=4):
    return decompose(
        CUSTOM_RULES,
        SIZES,
        num_subnets=num_subnets,
        full=CustomModule(16, 8),
        subnet=CustomModule(16 // num_subnets, 8 // num_subnets),
        example=EXAMPLE,
        scale=scale,
    )


def x(count=8):
    return np.random.default_rng(1).normal(size=(count, *EXAMPLE.shape[1:])).astype(np.float32)


def warning(decomposition):
    batch = {"x": jnp.asarray(x(32)), "y": jnp.zeros(32, int)}
    return scale_warning(decomposition, TASK, batch)


@pytest.mark.parametrize("scale,factor", [("keep", 1 / 4), ("sqrt", 1 / 2), ({"head": 0.3}, 0.3)])
def test_the_parameters_that_sum_over_a_group_are_scaled(scale, factor):
    expected = {"mix/kernel": factor, "head/kernel": factor}
    if isinstance(scale, dict):
        del expected["head/kernel"]
    full = scaled(scale).full
    assert isinstance(full, ScaledModel)
    assert full.factors == pytest.approx(expected)
    params = random_params(scaled(scale))
    by_hand = {name: dict(leaves) for name, leaves in params.items()}
    for name in expected:
        layer = by_hand[name.split("/")[0]]
        layer["kernel"] = layer["kernel"] * np.float32(factor)
    np.testing.assert_array_equal(full.apply(params, x()), full.model.apply(by_hand, x()))
    jax.tree.map(np.testing.assert_array_equal, full.measure(params, x()),
                 full.model.measure(by_hand, x()))  # fmt: skip


def test_with_a_scale_of_keep_copies_of_a_subnetwork_compute_what_it_computes():
    """And without one, they do not."""
    split = scaled("keep")
    params = random_params(split)
    labels = label_axes(params, split.rules, SIZES)
    units = {"unit": np.arange(4), "head": np.arange(2)}
    copies = {"unit": np.arange(16) % 4, "head": np.arange(8) % 2}
    expected = split.subnet.apply(extract(params, labels, units), x())
    whole = extract(params, labels, copies)
    assert_close(split.full.apply(whole, x()), expected, 1e-3, 1e-4)
    assert np.abs(split.full.model.apply(whole, x()) - expected).max() > 1


@pytest.mark.parametrize("scale", ["none", {}, {"unit": 1.0}])
def test_a_factor_of_one_leaves_the_model_as_it_is(scale):
    assert not isinstance(scaled(scale).full, ScaledModel)
    assert not isinstance(scaled("keep", 1).full, ScaledModel)


def test_a_dense_phase_trains_the_function_that_is_evaluated():
    """The gradient of a scaled parameter is scaled, and that of the others is not."""
    split = scaled("keep")
    assert replicated(split, 1).subnet is split.full
    params, gradient = random_params(split), jax.grad(lambda p, m: m.apply(p, x()).sum())
    ours, plain = jax.jit(
        lambda params: (
            gradient(params, split.full),
            gradient(split.full.fold(params), split.full.model),
        )
    )(params)
    assert_close(ours["mix"]["kernel"], plain["mix"]["kernel"] / 4)
    assert_close(ours["head"]["bias"], plain["head"]["bias"])


@pytest.mark.parametrize(
    "scale,says",
    [
        ("half", "a scale is one of .*, not 'half'"),
        ({"units": 0.5}, r"scale must name groups among \['head', 'unit'\], not \['units'\]"),
    ],
)
def test_unknown_scales_are_refused(scale, says):
    with pytest.raises(ValueError, match=says):
        scaled(scale)


class OneToOne:
    """A model whose group is multiplied entry by entry, and whose kernel is used twice."""

    def __init__(self, width, twice):
        self.width, self.twice = width, twice

    def init(self, key, example):
        return {"gain": jnp.ones(self.width), "kernel": jnp.ones((self.width, 3))}

    def apply(self, params, inputs, *, key=None, stats=None):
        units = inputs[:, :1] * params["gain"][None]
        if not self.twice:
            return units.sum(axis=1, keepdims=True) * params["kernel"].sum(axis=0)[None]
        return units @ params["kernel"] + params["kernel"].max()

    def measure(self, params, inputs):
        return {}


@pytest.mark.parametrize(
    "twice,says",
    [
        (False, r"none sums over \['unit'\]: scale these sums in `full`, .*\{'unit': 0.5\}"),
        (True, "a factor on 'kernel' would change more than a sum over 'unit'"),
    ],
)
def test_a_sum_that_no_parameter_stands_for_is_left_to_the_user(twice, says):
    make = functools.partial(
        decompose,
        [("gain", ("unit",)), ("kernel", ("unit", None))],
        {"unit": 4},
        num_subnets=2,
        full=OneToOne(4, twice),
        subnet=OneToOne(2, twice),
        example=EXAMPLE,
    )
    with pytest.raises(ValueError, match=says):
        make(scale="keep")
    text = warning(make())
    assert "times as many units as a subnetwork" in text, "it is found, without the group's name"


@pytest.mark.parametrize("name", ["mlp", "mlp-no-norm-scaled"])
def test_sums_with_a_norm_or_a_factor_are_not_warned_of(name):
    assert warning(DECOMPOSITIONS[name](4)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-uneven", "mlp-split-input"])
def test_nor_are_those_of_unequal_parts(name):
    assert warning(DECOMPOSITIONS[name](4)) == ""


def test_only_the_sums_without_a_norm_are_named():
    """The sum of the last hidden layer makes the logits; norms follow the others."""
    text = warning(DECOMPOSITIONS["mlp-deep-layer-norm"](4))
    assert text.startswith(
        "the full model sums over num_subnets=4 times as many units of ['hidden_2'] as a subnetwork"
    )
    assert "pass scale='keep' to decompose" in text


@pytest.mark.slow
def test_a_residual_stream_is_warned_of_in_both_frameworks():
    for framework in ("linen", "nnx"):
        split = TWINS["transformer"].decomposition(framework, 2)
        assert "units of ['head', 'neuron'] as a subnetwork" in warning(split)


class Lines:
    """A logger that keeps messages."""

    def __init__(self):
        self.texts = []

    def log(self, row, text=None):
        self.texts += [text] if text else []

    def close(self):
        pass


def warned(method):
    lines = Lines()
    run([Phase(method, BATCH, 1)], TASK, dataset(), loggers=[lines])
    return [text for text in lines.texts if "scale='keep'" in text]


def test_ist_warns_before_training():
    method = ist(custom(2), TASK, SGD, batch_size=BATCH)
    (text,) = method_warnings([method, method], TASK, dataset())
    assert text.startswith("the full model sums over num_subnets=2 times as many units of ['unit',")


class Split:
    """A model whose outputs are split, so that a subnetwork has fewer."""

    def __init__(self, outputs):
        self.outputs = outputs

    def init(self, key, example):
        return {"kernel": jnp.ones((EXAMPLE.shape[1], self.outputs))}

    def apply(self, params, inputs, *, key=None, stats=None):
        return inputs @ params["kernel"]

    def measure(self, params, inputs):
        return {}


def test_outputs_that_are_split_are_not_compared():
    rules, models = [("kernel", (None, "output"))], dict(full=Split(4), subnet=Split(2))
    assert warning(decompose(rules, {"output": 4}, num_subnets=2, example=EXAMPLE, **models)) == ""


def test_a_model_that_one_device_may_not_hold_is_not_compared(monkeypatch):
    monkeypatch.setattr(scale_check, "LARGEST", 100)
    assert warning(custom(2)) == ""


@pytest.mark.slow
def test_a_run_of_ist_warns_first():
    (text,) = warned(ist(custom(2), TASK, SGD, batch_size=BATCH))
    assert text.startswith("warning: the full model sums over num_subnets=2 times as many units")
    assert text.count("\n") == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ist(scaled("none", 2), TASK, SGD, batch_size=BATCH),
        lambda: ist(replicated(custom(2), 2), TASK, SGD, batch_size=BATCH),
        lambda: ensemble(custom(2), TASK, SGD, batch_size=BATCH),
        lambda: ist(custom(1), TASK, SGD, batch_size=BATCH),
    ],
    ids=["chosen", "local_sgd", "ensemble", "one"],
)
def test_methods_without_such_sums_do_not_warn(make):
    assert make().warnings(lambda: pytest.fail("no batch is needed")) == ()


def test_an_exported_model_has_the_factors_in_its_parameters(tmp_path):
    full, params = scaled("keep").full, random_params(scaled("keep"))
    export.write(tmp_path / "out", full, params)
    for model in (full, CustomModule(16, 8)):
        module, variables, _ = export.read(tmp_path / "out", model)
        assert isinstance(module, CustomModule)
        np.testing.assert_array_equal(module.apply(variables, x()), full.apply(params, x()))
