"""A model's outputs are compared with the data before anything is trained."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from cases import BATCH, CLASSES, EXAMPLE, FEATURES, SGD, TASK, dataset, graph_dataset
from custom_models import custom

from ist_jax import Phase, data_parallel, decompose, ist, run
from ist_jax.cli.exit_status import exit_status
from ist_jax.data import DataError
from ist_jax.decompositions import gcn, mlp
from ist_jax.methods import Method
from ist_jax.models import GCN, MLP, linen
from ist_jax.tasks import Selection, node_classification
from ist_jax.tasks.classification import check_classes
from ist_jax.training.outputs import check_outputs


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Fails if a state is made: the outputs are known before."""

    def init_arguments(*_):
        raise AssertionError("training has begun")

    monkeypatch.setattr(Method, "init_arguments", init_arguments)


def outputs(num_classes, num_subnets=2):
    return mlp(MLP((8,), num_classes), EXAMPLE, num_subnets=num_subnets)


FEW = "a classifier has an output for every class: it has 3 outputs, and the data have 5 classes; "


@pytest.mark.parametrize("make", [ist, data_parallel])
def test_a_model_with_fewer_outputs_than_classes_is_refused(make, capsys):
    """The loss became nan, and the advice was to lower the learning rate."""
    options = dict(num_workers=2) if make is data_parallel else {}
    method, data = make(outputs(3), TASK, SGD, batch_size=BATCH, **options), dataset()
    with pytest.raises(DataError, match=f"^the model: {FEW}give its last layer 5$"):
        run([Phase(method, 100, 2)], TASK, data)
    assert exit_status(lambda: run([Phase(method, 100, 2)], TASK, data)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_as_many_outputs_or_more_are_accepted():
    for num_classes in (CLASSES, CLASSES + 3):
        method = ist(outputs(num_classes), TASK, SGD, batch_size=BATCH)
        check_outputs(method, TASK, dataset())


class Net(nn.Module):
    """A network whose outputs may be split as well."""

    width: int
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs, name="output")(nn.relu(nn.Dense(self.width, name="in")(x)))


def test_a_subnetwork_with_a_part_of_the_outputs_is_refused():
    split = decompose(
        [
            ("in/kernel", (None, "unit")),
            ("in/bias", ("unit",)),
            ("output/kernel", ("unit", "class")),
            ("output/bias", ("class",)),
        ],
        {"unit": 8, "class": 6},
        num_subnets=2,
        full=Net(8, 6),
        subnet=Net(4, 3),
        example=EXAMPLE,
    )
    method = ist(split, TASK, SGD, batch_size=BATCH)
    with pytest.raises(DataError, match=f"^the model of a subnetwork: {FEW}"):
        run([Phase(method, 100, 2)], TASK, dataset())


def test_a_graph_network_with_fewer_outputs_than_classes_is_refused():
    task = node_classification()
    method = ist(gcn(GCN((8,), 3), FEATURES, num_subnets=2), task, SGD, batch_size=1)
    for clusters in (1, 4):
        data = graph_dataset(first_product="symmetric", clusters=clusters)
        with pytest.raises(DataError, match=f"^the model: {FEW}"):
            run([Phase(method, 100, 2)], task, data)


def test_a_model_for_other_inputs_is_refused():
    wide = jax.ShapeDtypeStruct((1, 7), jnp.float32)
    method = ist(mlp(MLP((8,), CLASSES), wide, num_subnets=2), TASK, SGD, batch_size=BATCH)
    with pytest.raises(DataError, match="the model fails on a batch of the data .* `example`$"):
        run([Phase(method, 100, 2)], TASK, dataset())


def test_labels_count_also_if_the_data_set_says_that_there_are_fewer_classes():
    data = dataclasses.replace(dataset(), num_classes=2)
    method = ist(outputs(3), TASK, SGD, batch_size=BATCH)
    with pytest.raises(DataError, match="3 outputs, and the data have 5 classes"):
        check_outputs(method, TASK, data)


@pytest.mark.parametrize(
    "logits,says",
    [
        (jax.ShapeDtypeStruct((8,), jnp.float32), r"these are of shape \[8\]: return a row"),
        (jax.ShapeDtypeStruct((8, 4, 5), jnp.float32), r"these are of shape \[8, 4, 5\]"),
        ({"logits": jax.ShapeDtypeStruct((8, 5), jnp.float32)}, "these are no array: return a row"),
    ],
)
def test_outputs_of_other_ranks_are_refused(logits, says):
    with pytest.raises(ValueError, match=says):
        check_classes(logits, dataset())


def test_a_task_without_a_check_takes_all_outputs():
    method = ist(outputs(3), TASK, SGD, batch_size=BATCH)
    check_outputs(method, TASK._replace(check=None), dataset())


def test_the_shapes_of_outputs_are_known_of_the_model_and_of_a_subnetwork():
    batch = {"x": jnp.zeros((3, FEATURES)), "y": jnp.zeros(3, jnp.int32)}
    shapes = ist(custom(2), TASK, SGD, batch_size=BATCH).output_shapes(batch)
    assert {name: outputs.shape for name, outputs in shapes.items()} == {
        "the model": (3, CLASSES),
        "the model of a subnetwork": (3, CLASSES),
    }
    options = dict(num_workers=2, batch_size=BATCH)
    assert data_parallel(custom(2), TASK, SGD, **options).output_shapes(batch).keys() == {
        "the model"
    }


def with_task(**parts):
    """A method and its task, of which some parts are other ones."""
    task = TASK._replace(check=None, **parts)
    return ist(outputs(CLASSES), task, SGD, batch_size=BATCH), task


WRONG_TASKS = {
    "a metric that selects and is none": (
        dict(selects=Selection("f1", "max")),
        "the task selects by 'f1', and its metrics are .'accuracy', .*'loss'.: name one of them",
    ),
    "metrics for other outputs": (
        dict(metrics=lambda outputs, batch, weight_B: {"error": (outputs - batch["x"]).sum()}),
        r"metrics of the task fail on outputs of shapes \[2, 5\] and a batch of .x: \[2, 12\], y: ",
    ),
    "a loss per example": (
        dict(loss=lambda model, params, batch, key: (model.apply(params, batch["x"])[:, 0], {})),
        r"the loss of the model must be one number, .* but is float32\[2\]: take its mean",
    ),
    "a loss alone": (
        dict(loss=lambda model, params, batch, key: model.apply(params, batch["x"]).mean()),
        r"the loss of the model fails on a batch .* and return \(loss, aux\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_TASKS)
def test_a_task_that_does_not_fit_is_refused_before_training(case, capsys):
    parts, says = WRONG_TASKS[case]
    method, task = with_task(**parts)
    with pytest.raises(DataError, match=says):
        run([Phase(method, 100, 2)], task, dataset())
    assert exit_status(lambda: run([Phase(method, 100, 2)], task, dataset())) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_splits_whose_arrays_differ_in_length_or_are_empty_are_refused():
    method, data = ist(outputs(CLASSES), TASK, SGD, batch_size=BATCH), dataset()
    short = {**data.test, "y": data.test["y"][1:]}
    none = {name: array[:0] for name, array in data.test.items()}
    for split, says in (
        (short, "in 'test' x has 60, y has 59"),
        (none, "has 0"),
    ):
        with pytest.raises(DataError, match=says):
            run([Phase(method, 100, 2)], TASK, dataclasses.replace(data, test=split))


def test_a_batch_larger_than_the_training_set_is_refused():
    method = ist(outputs(CLASSES), TASK, SGD, batch_size=101)
    with pytest.raises(
        DataError, match="batch_size=101 is above the number of training examples, 100"
    ):
        run([Phase(method, 202, 1)], TASK, dataset())


class Noisy(nn.Module):
    """A network with dropout of the stream `stream`; None: dropout that is never off."""

    width: int
    stream: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.width, name="in")(x))
        if self.stream is None:
            x = nn.Dropout(0.5, deterministic=False)(x)
        else:
            name = self.stream
            is_off = not (self.has_rng("dropout") or self.has_rng(name))
            x = nn.Dropout(0.5, deterministic=is_off, rng_collection=name)(x)
        return nn.Dense(CLASSES, name="output")(x)


def noisy(make):
    rules = [
        ("in/kernel", (None, "unit")),
        ("in/bias", ("unit",)),
        ("output/kernel", ("unit", None)),
        ("output/bias", None),
    ]
    models = dict(full=make(8), subnet=make(4), example=EXAMPLE)
    split = decompose(rules, {"unit": 8}, num_subnets=2, checks=False, **models)
    return ist(split, TASK, SGD, batch_size=BATCH)


@pytest.mark.parametrize("stream, when", [(None, "dropout"), ("noise", "noise")])
def test_dropout_without_a_key_says_what_to_write(stream, when):
    with pytest.raises(DataError) as raised:
        check_outputs(noisy(lambda width: Noisy(width, stream)), TASK, dataset())
    text = str(raised.value)
    assert text.startswith("the model: a Linen module gets the random stream 'dropout' in training")
    assert f'needs PRNG for "{when}"): write nn.Dropout(rate, deterministic=not self.has' in text
    assert "models.linen(module, streams=(...))" in text and "\n" not in text


def test_a_module_draws_from_the_streams_that_it_names():
    make = lambda width: linen(Noisy(width, "noise"), streams=("noise",))
    check_outputs(noisy(make), TASK, dataset())
    model, x = make(8), jnp.ones((2, FEATURES))
    params = model.init(jax.random.key(0), x)
    draws = [model.apply(params, x, key=jax.random.key(seed)) for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    with pytest.raises(ValueError, match="at least one random stream"):
        linen(Noisy(8, None), streams=())
