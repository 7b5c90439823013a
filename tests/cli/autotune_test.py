"""What placement `auto` stands for on one device."""

import dataclasses
import gc
import json

import jax
import pytest
from jax.errors import JaxRuntimeError

from ist_jax.cli import autotune, builders
from ist_jax.cli.commands import run
from ist_jax.cli.validation import placement_of

QUICK = [
    "--config=experiments/demo/digits.py",
    "--config.model.hidden=(16,)",
    "--config.local_steps=2",
    "--config.epochs=0.2",
]


@pytest.fixture(scope="module")
def made():
    config = run.parse([*QUICK, "--workdir=unused", "--config.num_devices=1"]).config
    return config, builders.dataset(config)


def test_the_faster_placement_is_taken_and_kept(made, tmp_path, monkeypatch, capsys):
    config, dataset = made
    monkeypatch.setattr(autotune, "WORTH", 1)
    monkeypatch.setattr(
        autotune, "_seconds", lambda config, dataset: {"looped": 2e-3, "vmapped": 1e-3}
    )
    chosen = autotune.resolve_placement(config, dataset, tmp_path)
    assert chosen == dataclasses.replace(config, placement="vmapped")
    assert (
        "a local step of all workers, with its share of a round, takes looped 2.00 ms, vmapped 1.00 ms"
        in capsys.readouterr().err
    )
    (tmp_path / "config.json").write_text(json.dumps({"config": {"placement": "looped"}}))
    assert autotune.resolve_placement(config, dataset, tmp_path).placement == "looped", (
        "a run that goes on keeps what it was started with"
    )


def test_what_was_decided_is_kept_before_anything_is_trained(tmp_path, monkeypatch):
    """A run is killed where training begins, and started again: nothing is measured a second time."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    command = ["run", *QUICK, "--config.num_devices=1", f"--workdir={tmp_path}"]
    monkeypatch.setattr(autotune, "WORTH", 1)
    monkeypatch.setattr(
        autotune, "_seconds", lambda config, dataset: {"looped": 2e-3, "vmapped": 1e-3}
    )
    with monkeypatch.context() as patch:
        patch.setattr(run, "run", killed)
        assert run.main(command) == 3
    assert json.loads((tmp_path / "config.json").read_text())["config"]["placement"] == "vmapped"
    monkeypatch.setattr(autotune, "_seconds", None)
    assert run.main(command) == 0
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["config"]["placement"] == kept["environment"]["placement"] == "vmapped"


def test_a_run_that_was_begun_without_measuring_is_not_measured_when_it_goes_on(
    made, tmp_path, monkeypatch
):
    """It did not fit the memory, or lay on a mesh: what a restart would measure could be another placement."""
    config, dataset = made
    monkeypatch.setattr(autotune, "WORTH", 1)
    monkeypatch.setattr(autotune, "_seconds", None)
    for placement in ("auto", "sharded"):
        (tmp_path / "config.json").write_text(json.dumps({"config": {"placement": placement}}))
        assert autotune.resolve_placement(config, dataset, tmp_path) is config


def test_nothing_is_measured_for_a_run_that_cannot_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autotune, "WORTH", 1)
    monkeypatch.setattr(autotune, "_seconds", None)
    arguments = [
        *QUICK,
        "--config.num_devices=1",
        f"--config.init_from={tmp_path}/none",
        f"--workdir={tmp_path}/run",
    ]
    assert run.main(["run", *arguments]) == 2
    assert "holds no run" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        ((), "vmapped"),
        (("--config.method=ensemble",), "vmapped"),
        (("--config.method=local_sgd",), "looped"),
        (("--config.data.clusters=8", "--config.batch_size=2"), "looped"),
        (("--config.data.layer_nodes=64",), "looped"),
        (("--config.model.norm=matrix",), "looped"),
        (("--config.model.name=sage",), "looped"),
    ],
)
def test_sub_gcns_that_read_one_graph_train_at_once_where_nothing_is_measured(given, expected):
    """They gather rows of one wide matrix; whole models, other ones and parts of graphs come one after another on a CPU."""
    arguments = [
        "--config=experiments/gist/digits_graph.py",
        "--workdir=unused",
        "--config.num_devices=1",
        *given,
    ]
    assert placement_of(run.parse(arguments).config).name == expected


def test_it_is_measured_by_training(made):
    config, dataset = made
    seconds = autotune._seconds(config, dataset)
    assert set(seconds) == {"looped", "vmapped"} and min(seconds.values()) > 0


def test_no_more_than_two_states_are_held_while_it_is_measured(made, monkeypatch):
    config, dataset = made
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden=(4096,)))
    algorithm = builders.phases(config, dataset.spec)[0][0].algorithm
    next(
        dataset.views(jax.random.key(1), algorithm.num_workers, algorithm.sharding, [range(1)])
    )  # data are held once in any case
    of_state = 4 * algorithm.costs.model_parameters
    held = lambda: sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())
    gc.collect()  # what other tests held
    before, most = held(), []

    def counted(runs, repeats):
        for run_one in (*runs, *runs):
            jax.block_until_ready(run_one())
            most.append(held() - before)
        return [1.0] * len(runs)

    monkeypatch.setattr(autotune, "median_seconds", counted)
    autotune._seconds(config, dataset)
    assert len(most) == 8 and of_state <= max(most) < 2 * of_state


def test_the_exchange_of_the_short_rounds_that_are_timed_is_shared_out_over_those_of_the_run():
    exchange, step = 0.5, 0.01
    seconds = {steps: exchange + steps * step for steps in (5, 15)}
    assert autotune._of_a_step(seconds, 100) == pytest.approx(step + exchange / 100)
    assert autotune._of_a_step(seconds, 1) == pytest.approx(step + exchange)
    assert autotune._of_a_step({5: 0.2, 15: 0.1}, 10) == pytest.approx(0.02), "noise: not below 0"


def test_what_does_not_fit_the_memory_twice_is_not_measured(made, tmp_path, monkeypatch, capsys):
    config, dataset = made

    def full(config, dataset):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(autotune, "WORTH", 1)
    monkeypatch.setattr(autotune, "_seconds", full)
    assert autotune.resolve_placement(config, dataset, tmp_path) is config
    assert "placement is not measured (RESOURCE_EXHAUSTED" in capsys.readouterr().err


def test_short_runs_one_worker_and_placements_that_were_asked_for_are_left_alone(
    made, tmp_path, monkeypatch
):
    config, dataset = made
    monkeypatch.setattr(autotune, "_seconds", None)
    assert autotune.resolve_placement(config, dataset, tmp_path) is config
    monkeypatch.setattr(autotune, "WORTH", 1)
    for change in ({"placement": "vmapped"}, {"method": "single"}):
        changed = dataclasses.replace(config, **change)
        assert autotune.resolve_placement(changed, dataset, tmp_path) is changed
