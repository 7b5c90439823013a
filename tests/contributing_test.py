"""The examples of CONTRIBUTING.md are run as they stand there, together."""

import importlib
import pathlib
import re
import sys
import types

import jax
import numpy as np
import optax
import pytest

import ist_jax
from ist_jax import data
from ist_jax.data import DataError
from ist_jax.data.splits import shared

TEXT = (pathlib.Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example (\S+)\.py -->\n```python\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def examples(monkeypatch):
    """The modules of the examples by name, as if their files were in the package."""
    modules = {}
    for path, source in EXAMPLES.items():
        module = types.ModuleType(path.replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, f"{path}.py", "exec"), module.__dict__)
        modules[path.rsplit("/", 1)[1]] = module
    return types.SimpleNamespace(**modules)


@pytest.fixture
def csv_digits(tmp_path, monkeypatch):
    """The digits as a CSV file, read by the example's source."""
    digits = data.load("digits")
    rows = np.column_stack([digits.train["x"].reshape(digits.num_train, -1), digits.train["y"]])
    np.savetxt(tmp_path / "digits.csv", rows[:600], fmt="%g", delimiter=",")
    return tmp_path / "digits.csv"


def test_there_is_an_example_of_each_addition():
    rooms = [path.split("/")[1] for path in EXAMPLES]
    assert rooms == ["decompositions", "decompositions", "methods", "tasks", "data"]
    for path in EXAMPLES:
        importlib.import_module(".".join(path.split("/")[:2]))  # the room that it goes to


def test_the_examples_train_together(examples, csv_digits):
    """The decomposition, by the method, on the task, of the source's data."""
    raw = examples.csv_file.load(str(csv_digits), "")
    digits = data.make_dataset(
        raw, "csv", source=str(csv_digits), validation_fraction=0.2, shards=shared
    )
    split = examples.gated.gated(
        examples.gated.Gated(32, digits.num_classes), digits.example, num_subnets=4
    )
    task = examples.hinge.hinge(digits.mean, digits.std)
    method = examples.lazy_ist.lazy_ist(split, task, optax.adam(0.01), rate=0.5, batch_size=16)
    results = ist_jax.run([ist_jax.Phase(method, 40_000, 10)], task, digits)
    assert results.summary["selection"] == {"metric": "error", "best": "min"}
    assert results.summary["selected"]["test"]["error"] < 0.3
    assert set(results.summary["last"]["test"]) == {"margin", "error"}


def test_the_rules_of_the_linen_example_fit_its_twin_in_nnx(examples):
    """The same logits of the same parameters."""
    example, options = jax.ShapeDtypeStruct((1, 8), np.float32), dict(num_subnets=4)
    linen = examples.gated.gated(examples.gated.Gated(32, 3), example, **options)
    nnx = examples.gated_nnx.gated_nnx(
        examples.gated.RULES, example, width=32, num_classes=3, **options
    )
    params, x = linen.init(jax.random.key(0)), np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(linen.full.apply(params, x), nnx.full.apply(params, x))


def test_the_lazy_method_keeps_units_in_some_rounds(examples):
    example = jax.ShapeDtypeStruct((1, 8), np.float32)
    split = examples.gated.gated(examples.gated.Gated(32, 3), example, num_subnets=4)
    make = lambda rate: examples.lazy_ist.lazy_ist(
        split, examples.hinge.hinge(), optax.sgd(0.1), rate=rate, batch_size=4
    )
    for rate, changes in ((0.0, False), (1.0, True)):
        method = make(rate)
        state = method.fresh(jax.random.key(0))
        units = method.plan(state, jax.random.key(1))
        assert (units["unit"] != state.indices["unit"]).any() == changes


def test_a_file_that_is_no_table_is_refused(examples, tmp_path):
    (tmp_path / "words.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="no CSV file of numbers"):
        examples.csv_file.load(str(tmp_path / "words.csv"), "")
