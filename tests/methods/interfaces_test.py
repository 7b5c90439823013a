"""Models without Flax, tasks with their own metrics, plans and predictors."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH, EXAMPLE, FEATURES, ROOT, SGD, TASK, dataset, rounds, two_groups

from ist_jax import data_parallel, decompose, diloco, ist, local_sgd, replicated
from ist_jax.core.task import MetricInfo, Selection, Task, means
from ist_jax.methods import drawn_partitions
from ist_jax.methods.ist import Ist
from ist_jax.models import MLP, as_model
from ist_jax.training.evaluation import evaluate

HIDDEN = 16


class Regression:
    """A network of one hidden layer, written without Flax."""

    def __init__(self, hidden, sum_scale=1.0):
        self.hidden, self.sum_scale = hidden, sum_scale

    def init(self, key, example):
        first, second = jax.random.split(key)
        kernel_DxH = jax.random.normal(first, (example.shape[-1], self.hidden)) / 4
        return {"hidden": kernel_DxH, "output": jax.random.normal(second, (self.hidden,)) / 4}

    def apply(self, params, inputs, *, key=None, stats=None):
        hidden_BxH = jnp.tanh(inputs @ params["hidden"])
        return self.sum_scale * hidden_BxH @ params["output"]

    def measure(self, params, inputs):
        return {}


def batch(arrays, index_B, key):
    x = jnp.take(arrays["x"], index_B, axis=0)
    return {"x": x, "y": jnp.tanh(x[:, 0] - x[:, 1])}


def squared_error(outputs_B, batch):
    return (outputs_B - batch["y"]) ** 2


def loss(model, params, batch, key):
    return squared_error(model.apply(params, batch["x"], key=key), batch).mean(), {}


def predict(model, params, batch):
    return model.apply(params, batch["x"])


def metrics(outputs_B, batch, weight_B):
    return {"mse": ((weight_B * squared_error(outputs_B, batch)).sum(), weight_B.sum())}


REGRESSION = Task(batch, loss, predict, metrics, Selection("mse", "min"))


def regression(num_subnets):
    return decompose(
        (("hidden", (None, "unit")), ("output", ("unit",))),
        {"unit": HIDDEN},
        num_subnets=num_subnets,
        full=Regression(HIDDEN, 1 / num_subnets),
        subnet=Regression(HIDDEN // num_subnets),
        example=EXAMPLE,
    )


def test_a_model_without_flax_trains_and_its_metric_is_the_only_one():
    method, data = ist(regression(2), REGRESSION, SGD, batch_size=BATCH), dataset()
    options = dict(batch_size=16, subnets=True)
    score = jax.jit(
        lambda state: evaluate(method, REGRESSION, state, {"test": data.test}, None, **options)
    )
    before, after = score(method.fresh(ROOT)), score(rounds(method, 20, 5, data)[0])
    assert before.keys() == {"test", "test_subnets"} and before["test"].keys() == {"mse"}
    assert after["test"]["mse"] < 0.5 * before["test"]["mse"]
    assert after["test_subnets"]["mse"].shape == (2,)


def test_a_task_that_selects_by_a_metric_it_does_not_have_is_refused():
    method, data = ist(regression(2), REGRESSION, SGD, batch_size=BATCH), dataset()
    task = REGRESSION._replace(selects=Selection("accuracy", "max"))

    def score(state):
        return evaluate(
            method, task, state, {"test": data.test}, None, batch_size=16, subnets=False
        )

    with pytest.raises(ValueError, match=r"selects by 'accuracy', and its metrics are \['mse'\]"):
        jax.eval_shape(score, method.fresh(ROOT))


def test_a_task_that_selects_in_another_direction_than_it_says_is_refused():
    method, data = ist(regression(2), REGRESSION, SGD, batch_size=BATCH), dataset()
    task = REGRESSION._replace(metric_info={"mse": MetricInfo("max")})
    options = dict(batch_size=16, subnets=False)

    def score(state):
        return evaluate(method, task, state, {"test": data.test}, None, **options)

    with pytest.raises(ValueError, match="selects by the min of 'mse', but Task.metric_info names"):
        jax.eval_shape(score, method.fresh(ROOT))


def test_a_summary_computes_metrics_of_any_sums():
    """Here the root of the mean squared error, also of every subnetwork."""
    method, data = ist(regression(2), REGRESSION, SGD, batch_size=BATCH), dataset()
    root = REGRESSION._replace(
        summary=lambda sums: {"rmse": means(sums)["mse"] ** 0.5}, selects=Selection("rmse", "min")
    )
    options = dict(batch_size=16, subnets=True)

    @jax.jit
    def score(state):
        of = lambda task: evaluate(method, task, state, {"test": data.test}, None, **options)
        return of(root), of(REGRESSION)

    found, plain = score(method.fresh(ROOT))
    for split in ("test", "test_subnets"):
        assert found[split].keys() == {"rmse"}
        np.testing.assert_allclose(found[split]["rmse"] ** 2, plain[split]["mse"], rtol=1e-5)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="a Linen module, ist_jax.models.nnx.*, or has init"):
        as_model(lambda params, x: x)


def test_a_selection_knows_which_way_is_better():
    assert Selection("mse", "min").improves(0.1, 0.2)
    assert not Selection("accuracy", "max").improves(0.1, 0.2)
    assert Selection("mse", "min").improves(0.1, None)


def test_a_plan_says_which_units_the_round_trains():
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH)
    plan = method.plan(method.fresh(ROOT), jax.random.fold_in(ROOT, 0))
    state, _ = rounds(method, 1)
    jax.tree.map(np.testing.assert_array_equal, dict(plan), dict(state.indices))


def test_the_plan_of_a_run_is_known_beforehand():
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH)
    state = method.fresh(jax.random.key(7))
    for r, drawn in enumerate(drawn_partitions(method.info.partition, 7, 3)):
        indices = method.plan(state, jax.random.fold_in(jax.random.key(7), r))
        jax.tree.map(np.testing.assert_array_equal, dict(indices), dict(drawn))
        state = state._replace(indices=indices)


def test_a_plan_may_depend_on_the_round():
    class EveryOtherRound(Ist):
        def plan(self, state, key):
            plan = super().plan(state, key)
            keep = lambda new_SxM, old_SxM: jnp.where(state.round % 2 == 0, new_SxM, old_SxM)
            return jax.tree.map(keep, plan, dict(state.indices))

    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH)
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    method, held = EveryOtherRound(**fields), []
    for count in range(1, 5):
        state, _ = rounds(method, count)
        assert int(state.round) == count
        held.append(np.asarray(state.indices["hidden_0"]))
    is_equal = [np.array_equal(*pair) for pair in itertools.pairwise(held)]
    assert is_equal == [True, False, True]


@pytest.mark.parametrize("make", (ist, data_parallel))
def test_rounds_are_counted_over_all_phases(make):
    options = {} if make is ist else dict(num_workers=2)
    method = make(two_groups(2), TASK, SGD, batch_size=BATCH, **options)
    first = method.fresh(ROOT)
    assert int(first.round) == 0
    state, _ = rounds(method, 3)
    next_phase = method.fresh(ROOT, method.end(state))
    assert (int(next_phase.round), int(next_phase.position)) == (3, 0)


def test_local_sgd_and_diloco_are_ist_without_groups():
    split, options = two_groups(2), dict(num_workers=2, batch_size=BATCH)
    copies = replicated(split, 2)
    pairs = (
        (local_sgd(split, TASK, SGD, **options), ist(copies, TASK, SGD, batch_size=BATCH)),
        (
            diloco(split, TASK, SGD, **options),
            ist(
                copies,
                TASK,
                SGD,
                batch_size=BATCH,
                opt_state="local",
                outer_tx=optax.sgd(0.7, 0.9, nesterov=True),
            ),
        ),
    )
    for method, expected in pairs:
        params = [each.params(rounds(each, 2)[0]) for each in (method, expected)]
        jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_predictor_passes_through_compiled_functions_without_compiling_anew():
    method, data = ist(two_groups(2), TASK, SGD, batch_size=BATCH), dataset()
    calibration = TASK.batch(data.train, jnp.arange(32), None)
    make = jax.jit(method.predictor)
    predict = jax.jit(lambda predictor, batch: predictor(batch))
    batch = TASK.batch(data.test, jnp.arange(8), None)
    for state in (method.fresh(ROOT), method.fresh(jax.random.key(9))):
        logits_BxC = predict(make(state, calibration), batch)
        expected = method.predictor(state, calibration)(batch)
        np.testing.assert_allclose(logits_BxC, expected, rtol=1e-4, atol=1e-5)
    assert make._cache_size() == predict._cache_size() == 1


def test_a_linen_module_and_its_model_give_the_same_logits():
    module, x = MLP((8,), 3), jax.random.normal(ROOT, (4, FEATURES))
    model = as_model(module)
    params = model.init(ROOT, x)
    np.testing.assert_array_equal(model.apply(params, x), module.apply({"params": params}, x))
    stats = model.measure(params, x)
    np.testing.assert_allclose(
        model.apply(params, x[:1], stats=stats), model.apply(params, x)[:1], rtol=1e-4, atol=1e-5
    )
