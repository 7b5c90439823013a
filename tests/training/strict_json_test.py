"""What is not finite is an error, and no reader of the records ever sees NaN."""

import ast
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, ROOT, SGD, TASK, dataset, two_groups
from finished_runs import finished, write_workdir

from ist_jax import LoopConfig, ist, run
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import results
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.divergence import NonFiniteLossError, check_metrics
from ist_jax.training.evaluation import evaluate_model
from ist_jax.training.files import json_content, json_text
from ist_jax.training.loggers import rows_until

PACKAGE = pathlib.Path(__file__).parent.parent.parent / "ist_jax"
SAMPLES = 4 * BATCH


def without_logits():
    """(task, method): training is as ever, and the logits of an evaluation are nan."""
    nan = lambda model, params, batch: TASK.predict(model, params, batch) * jnp.nan
    task = TASK._replace(predict=nan)
    return task, ist(two_groups(4), task, SGD, batch_size=BATCH)


def test_an_evaluation_that_is_not_finite_ends_the_run_though_all_parameters_are(tmp_path):
    task, method = without_logits()
    with pytest.raises(
        NonFiniteLossError,
        match="test calibration_error became nan in the evaluation after round 2: lower",
    ):
        run([(method, 6 * SAMPLES, 3)], task, dataset(), LoopConfig(eval_every=0), tmp_path)
    assert not (tmp_path / "summary.json").exists(), "it is not finished"
    assert [json_content(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert Checkpoints(tmp_path / "checkpoints").run_state()["round"] == 0


def test_an_exported_model_whose_logits_are_nan_has_no_score():
    task, method = without_logits()
    predictor = method.predictor(method.fresh(ROOT), None)
    with pytest.raises(NonFiniteLossError, match="test loss became nan in the evaluation on blobs"):
        evaluate_model(predictor, task, dataset(), "test", 20)


def test_the_subnetwork_whose_metric_is_not_finite_is_named():
    fine = {"validation": {"loss": 1.0, "accuracy": 0.5}, "test_subnets": {"loss": [1.0, 2.0]}}
    check_metrics(fine, "here", "stop")
    for value, split in ((float("inf"), "test"), (float("nan"), "validation")):
        metrics = fine | {f"{split}_subnets": {"loss": [1.0, value, value]}}
        says = f"{split} loss of subnetwork 1 became {value} in round 3: lower the learning rate"
        with pytest.raises(NonFiniteLossError, match=says):
            check_metrics(metrics, "in round 3", "lower the learning rate")


@pytest.mark.parametrize(
    "content, place",
    [
        ({"test": {"loss": [1.0, float("nan")]}}, "test/loss/1 is nan"),
        ([{"seconds": -float("inf")}], "0/seconds is -inf"),
        ({"a": ({"b": np.float64("inf")},)}, "a/0/b is inf"),
    ],
)
def test_a_number_that_json_does_not_have_is_an_error_that_says_where(content, place):
    with pytest.raises(ValueError, match=f"JSON has finite numbers only, and {place}"):
        json_text(content)
    with pytest.raises(ValueError, match="finite numbers only, not (NaN|-?Infinity)"):
        json_content(json.dumps(content))


def test_json_is_written_by_one_function():
    writer = PACKAGE / "training" / "files.py"
    for path in PACKAGE.rglob("*.py"):
        names = [
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "json"
        ]
        expected = ["dumps"] if path == writer else []
        assert [name for name in names if name.startswith("dump")] == expected, path


def test_a_checkpoint_holds_finite_numbers_only(tmp_path):
    state = {"x": jnp.ones(3)}
    with pytest.raises(CheckpointError, match="finite numbers only, and run_state/selected is nan"):
        Checkpoints(tmp_path).save(1, state, state, {"selected": float("nan")})


def test_a_row_with_nan_is_damaged(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"round": 1}\n{"round": 2, "test": {"loss": NaN}}\n{"round": 3}\n')
    assert rows_until(file, 3) == [{"round": 1}]


def test_a_run_with_nan_in_its_record_is_not_reported(tmp_path):
    nan = finished(validation__loss=(float("nan"), 0.5))
    with pytest.raises(ConfigError, match="finite numbers only, not NaN.*: run it again"):
        results.read_workdir(write_workdir(tmp_path / "run", nan))


def test_a_table_that_could_not_be_read_back_is_not_written(tmp_path):
    table = tmp_path / "table.jsonl"
    odd = finished({"data.dir": "a\u2028b\x85c"})
    results.write(table, results.Kept("ist-jax run", [odd]))
    (read,) = results.read(table).runs
    assert read.config["data.dir"] == "a\u2028b\x85c", "not every separator ends a line"
    before = table.read_bytes()
    for wrong in (
        finished(test__loss=(1.0, float("inf"))),
        odd._replace(summary={"status": "finished"}),
    ):
        with pytest.raises(ConfigError, match="table.jsonl stays as it is: a run cannot be kept"):
            results.write(table, results.Kept("ist-jax run", [odd, wrong]))
        assert table.read_bytes() == before
