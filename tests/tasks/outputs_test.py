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
from ist_jax.models import GCN, MLP
from ist_jax.tasks import node_classification
from ist_jax.tasks.classification import check_classes
from ist_jax.training.outputs import check_outputs


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Fails if a state is made: the outputs are known before."""

    def fresh(*_):
        raise AssertionError("training has begun")

    monkeypatch.setattr(Method, "fresh", fresh)


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
