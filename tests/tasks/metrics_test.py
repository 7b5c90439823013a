"""The metrics of all tasks over independent examples, checked against scikit-learn."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ist_jax import tasks
from ist_jax.data import from_arrays
from ist_jax.tasks.classification import BINS
from ist_jax.tasks.multi_label import check_labels
from ist_jax.tasks.regression import check_targets
from ist_jax.training.evaluation import plus

RNG = np.random.default_rng(0)
N, C, BATCH = 90, 6, 40
LOGITS = RNG.normal(size=(N, C)).astype(np.float32)
LABELS = (RNG.random((N, C)) < 0.3).astype(np.uint8)
LABELS[:2] = 0  # examples without labels
LABELS[:, 4] = 0  # a label that no example has
TARGETS = (1000 + 5 * RNG.normal(size=(N, 3))).astype(np.float32)


def values(task, outputs, y):
    """The metrics of all examples, over batches that weights of 0 fill up."""
    total, sums_of = None, jax.jit(task.metrics)
    for start in range(0, N, BATCH):
        index_B = np.arange(start, start + BATCH) % N
        weight_B = jnp.asarray(np.arange(start, start + BATCH) < N, jnp.float32)
        sums = jax.device_get(sums_of(outputs[index_B], {"y": y[index_B]}, weight_B))
        total = sums if total is None else plus(total, sums)
    return {name: float(value) for name, value in task.summary(total).items()}


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


TASKS = {
    "classification": (tasks.classification(), LOGITS, RNG.integers(0, C, N)),
    "regression": (tasks.regression(), LOGITS[:, :3], TARGETS),
    "multi_label": (tasks.multi_label(), LOGITS, LABELS),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_the_direction_and_unit_of_all_its_metrics(name):
    task, outputs, y = TASKS[name]
    assert values(task, outputs, y).keys() == task.metric_info.keys()
    assert task.metric_info[task.selects.metric].best == task.selects.best


@pytest.mark.parametrize("name", TASKS)
def test_metrics_of_subnetworks_are_those_of_each(name):
    task, outputs, y = TASKS[name]
    sums = lambda outputs: task.metrics(outputs, {"y": jnp.asarray(y)}, jnp.ones(N))
    outputs_S = np.stack([outputs, outputs + 0.1 * outputs[::-1]])
    both = jax.jit(lambda outputs_S: jax.vmap(task.summary)(jax.vmap(sums)(outputs_S)))(outputs_S)
    for s in (0, 1):
        one = jax.jit(lambda outputs: task.summary(sums(outputs)))(outputs_S[s])
        for metric, value in one.items():
            np.testing.assert_allclose(both[metric][s], value, rtol=1e-5, atol=1e-6)


def test_the_calibration_error_is_that_of_equal_bins_of_confidence():
    task, logits, y = TASKS["classification"]
    probability = softmax(3 * logits)
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == y
    expected, edges = 0.0, np.linspace(0, 1, BINS + 1)
    for low, high in itertools.pairwise(edges):
        here = (confidence > low) & (confidence <= high)
        if here.any():
            expected += here.mean() * abs(correct[here].mean() - confidence[here].mean())
    found = values(task, 3 * logits, y)
    assert found["calibration_error"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(y, logits.argmax(1)))
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(y, probability), rel=1e-5)


def test_certain_and_right_predictions_are_calibrated_and_wrong_ones_are_not():
    task, _, y = TASKS["classification"]
    certain = 100 * np.eye(C, dtype=np.float32)[y]
    assert values(task, certain, y)["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert values(task, certain, (y + 1) % C)["calibration_error"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("columns", [slice(0, 3), 0], ids=["three targets", "one target"])
def test_metrics_of_regression_are_in_the_unit_of_the_targets(columns):
    y = TARGETS[:, columns]
    mean, std = y.mean(axis=0), y.std(axis=0)
    task = tasks.regression(target_mean=mean.tolist(), target_std=std.tolist())
    outputs = ((y - mean) / std + 0.3 * LOGITS[:, columns]).astype(np.float32)
    predicted = outputs * std + mean
    found = values(task, outputs, y)
    expected = {
        "mse": sklearn_metrics.mean_squared_error(y, predicted),
        "mae": sklearn_metrics.mean_absolute_error(y, predicted),
        "r2": sklearn_metrics.r2_score(y, predicted),
        "loss": np.mean((outputs - (y - mean) / std) ** 2),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_a_target_that_does_not_vary_is_right_or_wrong():
    y = np.full(N, 3.0, np.float32)
    task = tasks.regression(target_mean=3.0)
    assert values(task, np.zeros((N, 1), np.float32), y)["r2"] == 1
    for value in (3.0, 3.1):  # sums of the latter are rounded
        y = np.full(N, value, np.float32)
        for task in (tasks.regression(target_mean=3.0), tasks.regression()):
            assert values(task, np.ones((N, 1), np.float32), y)["r2"] == 0


@pytest.mark.parametrize("loss", ["binary", "softmax"])
def test_metrics_of_several_labels(loss):
    probability = softmax(3 * LOGITS) if loss == "softmax" else 1 / (1 + np.exp(-3 * LOGITS))
    found = values(tasks.multi_label(loss=loss), 3 * LOGITS, LABELS)
    for k in (1, 3, 5):
        top = np.argsort(-LOGITS, axis=1)[:, :k]
        hits = np.take_along_axis(LABELS, top, axis=1).sum(axis=1) / k
        assert found[f"p@{k}"] == pytest.approx(hits.mean(), rel=1e-5)
        ndcg = sklearn_metrics.ndcg_score(LABELS, LOGITS, k=k)  # 0 for examples without labels
        assert found[f"ndcg@{k}"] == pytest.approx(ndcg, rel=1e-5)
    for average in ("micro", "macro"):
        f1 = sklearn_metrics.f1_score(LABELS, probability > 0.5, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(f1, rel=1e-5)
    share = LABELS / np.maximum(LABELS.sum(axis=1, keepdims=True), 1)
    wanted = {
        "binary": sklearn_metrics.log_loss(LABELS.reshape(-1), probability.reshape(-1)),
        "softmax": -(share * np.log(probability)).sum(axis=1).mean(),
    }
    assert found["loss"] == pytest.approx(wanted[loss], rel=1e-5)


def test_precision_at_more_than_the_number_of_labels_is_left_out():
    names = values(tasks.multi_label(), LOGITS[:, :4], LABELS[:, :4]).keys()
    assert {"p@1", "p@3", "ndcg@3"} <= names and not {"p@5", "ndcg@5"} & names


def test_examples_without_labels_have_no_gradient_in_a_softmax_and_one_in_binary_losses():
    model = types.SimpleNamespace(apply=lambda params, x, key=None: params)
    batch = {"x": None, "y": jnp.zeros((N, C), jnp.uint8)}
    for loss, moves in (("softmax", False), ("binary", True)):
        loss_of = functools.partial(tasks.multi_label(loss=loss).loss, model)
        gradient, _ = jax.jit(jax.grad(loss_of, has_aux=True))(LOGITS, batch, jax.random.key(0))
        assert bool(np.any(gradient)) == moves
    with pytest.raises(ValueError, match="loss is one of binary, softmax, not 'hinge'"):
        tasks.multi_label(loss="hinge")


def described(task, num_classes=3):
    return types.SimpleNamespace(task=task, num_classes=num_classes)


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 1), (8,), (8, 4), None])
def test_outputs_fit_the_targets(shape):
    outputs = {} if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32)
    if shape == (8, 3):
        check_targets(outputs, described("regression"))
        check_labels(outputs, described("multi_label"))
        return
    says = "no array" if shape is None else rf"of shape \[{', '.join(map(str, shape))}\]"
    for check, task in ((check_targets, "regression"), (check_labels, "multi_label")):
        with pytest.raises(ValueError, match=f"these are {says}: give (the|its) last layer 3"):
            check(outputs, described(task))


def test_one_target_may_be_an_output_without_an_axis():
    for shape in ((8,), (8, 1)):
        check_targets(jax.ShapeDtypeStruct(shape, jnp.float32), described("regression", 1))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_refuses_data_of_another_kind(name):
    outputs = jax.ShapeDtypeStruct((8, C), jnp.float32)
    for other in TASKS.keys() - {name}:
        data = from_arrays(LOGITS, TASKS[other][2])
        with pytest.raises(ValueError, match=f"(data are for|the task of) {other}"):
            TASKS[name][0].check(outputs, data)
