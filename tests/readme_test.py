"""The text of the README is run as it stands."""

import pathlib
import re

import numpy as np
import optax
import pytest

import ist_jax
from ist_jax import data, tasks

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RULES = re.search(r"rules=(\[.*?\]),\n    sizes", README, re.DOTALL)


def test_the_own_model_example_is_short_and_works_and_so_do_the_baselines_after_it(
    capsys, tmp_path, monkeypatch
):
    example = EXAMPLES[0]
    assert len(example.splitlines()) < 40
    namespace = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), namespace)
    accuracy = float(capsys.readouterr().out)
    assert accuracy > 0.9
    assert "net.full.apply(results.params, (x - digits.mean) / digits.std)" in README
    net, results, digits = (namespace[name] for name in ("net", "results", "digits"))
    x = np.float32((digits.test["x"] - digits.mean) / digits.std)
    correct = net.full.apply(results.params, x).argmax(axis=1) == digits.test["y"]
    assert float(correct.mean()) == pytest.approx(accuracy)
    monkeypatch.chdir(tmp_path)
    more = re.findall(r"^    (ist_jax\..*)$", README.split("```")[-1], re.MULTILINE)
    assert len(more) == 4
    for line in more:
        exec(compile(line, "README.md", "exec"), namespace)
    assert (tmp_path / "runs" / "example" / "summary.json").exists()


def test_the_same_network_in_nnx_trains_by_the_same_rules():
    namespace = {"__name__": "readme"}
    exec(compile(EXAMPLES[1], "README.md", "exec"), namespace)
    digits = data.load("digits")
    net = ist_jax.decompose(
        eval(RULES[1]),
        {"neuron": 256},
        num_subnets=4,
        full=namespace["full"],
        subnet=namespace["subnet"],
        example=digits.example,
        scale="keep",
    )
    task = tasks.classification(digits.mean, digits.std)
    method = ist_jax.ist(net, task, optax.adam(1e-3), batch_size=32)
    results = ist_jax.run([ist_jax.Phase(method, 20_000, 10)], task, digits)
    assert results.summary["last"]["test"]["accuracy"] > 0.85


TARGETS = {
    "integers [N]": np.arange(40) % 3,
    "floats [N] or [N, K]": np.linspace(-1, 1, 40),
    "0 and 1, [N, labels]": np.stack([np.arange(40) % 2, np.arange(40) % 3 == 0, np.ones(40)], 1),
}


@pytest.mark.parametrize("targets", TARGETS)
def test_targets_decide_the_task(targets):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = TARGETS[targets]
    table = data.from_arrays(x, y, standardise="per_feature")
    (call,) = re.findall(rf"^\| {re.escape(targets)} \| `(.*)` \|$", README, re.MULTILINE)
    task = eval(call, {"tasks": tasks, "table": table})
    assert call.startswith(f"tasks.{table.spec.task}(") and task.selects
