"""Data sets of a program's arrays: dense or sparse, of any dtype, with any kind of target."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp

import ist_jax
from ist_jax import tasks
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.data import DataError, Raw, from_arrays, make_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import mlp
from ist_jax.models import MLP

RNG = np.random.default_rng(0)
N, D = 120, 40
WORDS = sp.random(N, D, 0.1, format="csr", random_state=RNG, dtype=np.float64)
DENSE = WORDS.toarray()
CLASSES = (DENSE[:, :20].sum(axis=1) > DENSE[:, 20:].sum(axis=1)).astype(int)
NUMBERS = np.stack([DENSE @ RNG.normal(size=D), 1e3 + DENSE[:, 0]], axis=1)
LABELS = (RNG.random((N, 5)) < 0.4).astype(int)


def test_it_is_the_data_set_that_a_source_would_make_of_them():
    raw = Raw(DENSE[:90], CLASSES[:90], DENSE[90:], CLASSES[90:])
    made = make_dataset(raw, "x", source="x", validation_fraction=0.1, shards=shared)
    given = from_arrays(DENSE[:90], CLASSES[:90], DENSE[90:], CLASSES[90:], name="x")
    assert given.spec == made.spec and given.fingerprint == made.fingerprint
    np.testing.assert_array_equal(given.shards(2).size_S, [81, 81])
    changed = from_arrays(2 * DENSE[:90], CLASSES[:90], 2 * DENSE[90:], CLASSES[90:], name="x")
    assert changed.fingerprint != given.fingerprint


def test_test_examples_are_held_out_if_there_are_none():
    data = from_arrays(DENSE, CLASSES, test_fraction=0.25)
    assert [len(part["y"]) for part in (data.train, data.validation, data.test)] == [81, 9, 30]
    rows = np.concatenate([data.train["x"], data.validation["x"], data.test["x"]])
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in DENSE.astype(np.float32)}
    group_N = np.arange(N) // 10
    whose = {row.tobytes(): group for row, group in zip(DENSE.astype(np.float32), group_N)}
    data = from_arrays(DENSE, CLASSES, groups=group_N)
    parts = (data.train, data.validation, data.test)
    groups = [{whose[row.tobytes()] for row in part["x"]} for part in parts]
    assert len(set.union(*groups)) == 12 == sum(map(len, groups)), "no group is divided"


@pytest.mark.parametrize(
    "y,task,dtype,num_classes",
    [
        (CLASSES, "classification", np.int32, 2),
        (CLASSES.astype(bool), "classification", np.int32, 2),
        (jnp.asarray(CLASSES, jnp.uint8), "classification", np.int32, 2),
        (NUMBERS, "regression", np.float32, 2),
        (NUMBERS[:, 0], "regression", np.float32, 1),
        (jnp.asarray(NUMBERS[:, :1], jnp.bfloat16), "regression", np.float32, 1),
        (LABELS, "multi_label", np.uint8, 5),
        (LABELS.astype(float), "multi_label", np.uint8, 5),
        (LABELS.astype(bool), "multi_label", np.uint8, 5),
        (sp.csc_matrix(LABELS), "multi_label", np.uint8, 5),
    ],
)
def test_targets_are_told_by_dtype_and_shape(y, task, dtype, num_classes):
    data = from_arrays(DENSE, y)
    assert (data.task, data.num_classes) == (task, num_classes)
    assert data.train["y"].dtype == data.test["y"].dtype == dtype
    assert data.train["y"].shape[1:] == y.shape[1:]


def test_a_given_task_decides():
    assert from_arrays(DENSE, CLASSES, task="regression").target_mean == pytest.approx(
        CLASSES.mean(), abs=0.1
    )
    one_each = np.eye(3)[np.arange(N) % 3]
    assert from_arrays(DENSE, one_each, task="multi_label").num_classes == 3
    with pytest.raises(DataError, match="use y.argmax.* for classes, or data.task=multi_label"):
        from_arrays(DENSE, one_each)
    with pytest.raises(DataError, match="several labels per example are a table"):
        from_arrays(DENSE, CLASSES, task="multi_label")
    with pytest.raises(DataError, match="classes are integers; .* data.task=regression"):
        from_arrays(DENSE, NUMBERS[:, 0], task="classification")
    with pytest.raises(ValueError, match="data.task is auto or one of classification, regr"):
        from_arrays(DENSE, CLASSES, task="ranking")


def test_moments_of_targets_are_those_of_training():
    data = from_arrays(DENSE, NUMBERS)
    np.testing.assert_allclose(data.target_mean, data.train["y"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(data.target_std, data.train["y"].std(axis=0), rtol=1e-4)
    assert data.spec.from_json(data.spec._asdict()) == data.spec
    with pytest.raises(ValueError, match=r"the shape \(2,\) of the targets"):
        data.spec.from_json(data.spec._asdict() | {"target_mean": [0, 0, 0]})


def test_odd_targets_are_said_or_refused():
    (warning,) = from_arrays(DENSE, CLASSES.astype(float)).warnings
    assert "whole numbers from 0 to 1, stored as float64" in warning
    assert not from_arrays(DENSE, CLASSES.astype(float), task="regression").warnings
    (warning,) = from_arrays(DENSE, NUMBERS * [1, 0]).warnings
    assert "target 1 never varies in training: leave it out" in warning
    (warning,) = from_arrays(DENSE, np.where([[1, 1, 0, 1, 0]], LABELS, 0)).warnings
    assert "no training example has labels 2, 4" in warning
    with pytest.raises(DataError, match="train targets are .* and test targets .*: prepare both"):
        from_arrays(DENSE[:90], NUMBERS[:90, 0], DENSE[90:], 100 * NUMBERS[90:, 0])
    with pytest.raises(DataError, match=r"have the same shape, not \(2,\) and \(1,\)"):
        from_arrays(DENSE[:90], NUMBERS[:90], DENSE[90:], NUMBERS[90:, :1])


@pytest.mark.parametrize(
    "given,says",
    [
        (dict(y=CLASSES[:-1]), r"an entry for every example, but their shapes are .*'y': \(119,\)"),
        (dict(x=DENSE[:0], y=CLASSES[:0]), "an entry for every example, but their shapes are"),
        (dict(x_test=DENSE), "test examples are x_test and y_test: give both"),
        (dict(x_test=WORDS, y_test=CLASSES), "both sparse or both dense: x.toarray"),
        (dict(test_fraction=0.001), "test_fraction=0.001 of 120 examples leaves an empty split"),
        (dict(y=NUMBERS, split="dirichlet"), "'dirichlet' divides classes .* are regression: use"),
        (
            dict(y=NUMBERS[:, :, None]),
            r"\[N\] or \[N, K\]; .*: use y.reshape\(len\(y\), -1\)",
        ),
        (dict(x=DENSE.astype(str)), "inputs are numbers"),
        (dict(y=NUMBERS * np.nan), "targets are finite in float32"),
        (dict(x=WORDS * np.nan), "inputs are finite in float32"),
    ],
)
def test_what_does_not_fit_is_refused(given, says):
    with pytest.raises(DataError, match=says) as refused:
        from_arrays(**dict(x=DENSE, y=CLASSES) | given)
    assert "\n" not in str(refused.value)


def batch_of(data, part="train"):
    task = tasks.classification(data.mean, data.std)
    return np.asarray(task.batch(data.arrays(part), np.arange(8), None)["x"])


@pytest.mark.parametrize("standardise", ["whole", "per_feature", "none"])
def test_sparse_inputs_are_those_of_dense_ones(standardise):
    sparse, dense = (
        from_arrays(x, CLASSES, standardise=standardise) for x in (WORDS.tocoo(), DENSE)
    )
    assert "x" not in sparse.train and sparse.train["x_column"].shape[1] < D / 2
    assert sparse.example.shape == (1, D) and sparse.example.dtype == np.float32
    np.testing.assert_allclose(sparse.mean, dense.mean, rtol=1e-6)
    np.testing.assert_allclose(sparse.std, dense.std, rtol=1e-6)
    for part in ("train", "validation", "test"):
        np.testing.assert_allclose(
            batch_of(sparse, part), batch_of(dense, part), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("density", [0.1, 0.9], ids=["sparse", "dense"])
def test_integers_of_sparse_inputs_are_floats_however_they_are_stored(density):
    counts = sp.random(N, D, density, format="csr", random_state=0) * 10
    data = from_arrays(counts.astype(np.int32), CLASSES, standardise="none")
    assert ("x" in data.train) == (density == 0.9)
    assert data.dtype == batch_of(data).dtype == "float32"


def test_sparse_entries_that_occur_twice_are_added_up():
    """Also where their dtype cannot hold the sum."""
    row, column = np.repeat(np.arange(N), 2), np.zeros(2 * N, int)
    x = sp.coo_matrix((np.tile([200, 100], N).astype(np.uint8), (row, column)), (N, D))
    data = from_arrays(x, CLASSES, standardise="none")
    assert (data.train["x_value"] == 300).all() and (data.train["x_column"] == 0).all()


def test_nearly_full_sparse_inputs_are_stored_dense():
    full = sp.csr_matrix(DENSE + 1)
    np.testing.assert_array_equal(
        from_arrays(full, CLASSES).train["x"], from_arrays(DENSE + 1, CLASSES).train["x"]
    )


def trained(is_sparse, split, placement=None):
    data = from_arrays(
        WORDS if is_sparse else DENSE, CLASSES, split=split, standardise="none", seed=1
    )
    net = mlp(MLP((8,), 2), data.example, num_subnets=2)
    method = ist_jax.ist(
        net, tasks.classification(), optax.adam(0.01), batch_size=8, placement=placement
    )
    config = ist_jax.LoopConfig(calibration_examples=50)
    results = ist_jax.run([ist_jax.Phase(method, 160, 5)], tasks.classification(), data, config)
    return results.summary["last"]


@pytest.mark.slow
def test_sparse_inputs_train_as_dense_ones():
    assert trained(True, "shared") == trained(False, "shared")
    on_mesh = sharded(subnet_mesh(2))
    assert trained(True, "disjoint", on_mesh) == trained(False, "disjoint", on_mesh)
