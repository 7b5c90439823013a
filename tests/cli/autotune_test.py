"""What placement `autotune` stands for, and the fixed rule of `auto`."""

import gc
import json

import jax
import pytest
from jax.errors import JaxRuntimeError

from ist_jax.cli import autotune
from ist_jax.cli.commands import run
from ist_jax.cli.config import replace
from ist_jax.cli.experiment import resolve
from ist_jax.cli.validation import placement_of

MEASURED = {"looped": 2e-3, "vmapped": 1e-3}
QUICK = [
    "--config=experiments/demo/digits.py",
    *("--model.hidden", "16"),
    "--local_steps=2",
    "--epochs=0.2",
    "--placement=autotune",
    "--num_devices=1",
]


@pytest.fixture(scope="module")
def made():
    return resolve(run.parse(["run", *QUICK, "--workdir=unused"]).config)


def kept(workdir, placement):
    (workdir / "config.json").write_text(json.dumps({"config": {"placement": placement}}))


def test_the_faster_placement_is_taken_and_kept(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autotune, "_seconds", lambda experiment: MEASURED)
    chosen = autotune.resolve_placement(made, tmp_path)
    assert chosen.config == replace(made.config, placement="vmapped")
    assert chosen.placement.name == "vmapped" and chosen.dataset is made.dataset
    says = "with its share of the exchange, takes looped 2.00 ms, vmapped 1.00 ms"
    assert says in capsys.readouterr().err
    kept(tmp_path, "looped")
    assert autotune.resolve_placement(made, tmp_path).placement.name == "looped", (
        "a run that resumes keeps what it was started with"
    )


@pytest.mark.slow
def test_what_was_chosen_is_kept_before_anything_is_trained(tmp_path, monkeypatch):
    """A run is killed where training begins, and started again: nothing is measured twice."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    command = ["run", *QUICK, f"--workdir={tmp_path}"]
    monkeypatch.setattr(autotune, "_seconds", lambda experiment: MEASURED)
    with monkeypatch.context() as patch:
        patch.setattr(run, "run", killed)
        assert run.main(command) == 3
    assert json.loads((tmp_path / "config.json").read_text())["config"]["placement"] == "vmapped"
    monkeypatch.setattr(autotune, "_seconds", None)
    assert run.main(command) == 0
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"]["placement"] == written["environment"]["placement"] == "vmapped"


def test_a_run_that_was_started_without_measuring_is_not_measured_when_it_resumes(
    made, tmp_path, monkeypatch
):
    """It did not fit the memory, or was on a mesh: a restart could measure another placement."""
    monkeypatch.setattr(autotune, "_seconds", None)
    for placement in ("auto", "sharded"):
        kept(tmp_path, placement)
        again = autotune.resolve_placement(made, tmp_path)
        assert again.config == replace(made.config, placement="auto")


def test_nothing_is_measured_for_a_run_that_cannot_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autotune, "_seconds", None)
    arguments = [*QUICK, f"--init_from={tmp_path}/none", f"--workdir={tmp_path}/run"]
    assert run.main(["run", *arguments]) == 2
    assert "holds no run" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        ((), "vmapped"),
        (("--method=ensemble",), "vmapped"),
        (("--method=local_sgd",), "looped"),
        (("--data.clusters=8", "--batch_size=2"), "looped"),
        (("--data.layer_nodes=64",), "looped"),
        (("--model.norm=matrix",), "looped"),
        (("--model.name=sage",), "looped"),
    ],
)
def test_sub_gcns_that_read_one_graph_train_at_once_by_the_fixed_rule(given, expected):
    """They gather rows of one wide matrix. Full models, other ones and parts of graphs come one
    after another on a CPU."""
    arguments = ["--config=experiments/gist/digits_graph.py", "--workdir=unused", *given]
    config = run.parse(["run", *arguments, "--num_devices=1"]).config
    assert config.placement == "auto" and placement_of(config).name == expected


@pytest.mark.slow
def test_it_is_measured_by_training(made):
    seconds = autotune._seconds(made)
    assert set(seconds) == {"looped", "vmapped"} and min(seconds.values()) > 0


@pytest.mark.slow
def test_no_more_than_two_states_are_held_while_it_is_measured(made, monkeypatch):
    wide = resolve(replace(made.config, model={"hidden": (4096,)}), made.dataset)
    method = wide.phases[0].method
    # data are held once in any case
    next(wide.data.views(jax.random.key(1), method.num_workers, method.sharding, [range(1)]))
    of_state = 4 * method.costs.model_parameters

    def held():
        return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())

    gc.collect()  # what other tests held
    before, most = held(), []

    def counted(runs, repeats):
        for run_one in (*runs, *runs):
            jax.block_until_ready(run_one())
            most.append(held() - before)
        return [1.0] * len(runs)

    monkeypatch.setattr(autotune, "median_seconds", counted)
    autotune._seconds(wide)
    assert len(most) == 8 and of_state <= max(most) < 2 * of_state


def test_the_exchange_of_the_short_rounds_that_are_timed_is_shared_out_over_those_of_the_run():
    exchange, step = 0.5, 0.01
    seconds = {steps: exchange + steps * step for steps in (5, 15)}
    assert autotune._seconds_per_step(seconds, 100) == pytest.approx(step + exchange / 100)
    assert autotune._seconds_per_step(seconds, 1) == pytest.approx(step + exchange)
    noise = autotune._seconds_per_step({5: 0.2, 15: 0.1}, 10)
    assert noise == pytest.approx(0.02), "not below 0"


def test_what_does_not_fit_the_memory_twice_is_not_measured(made, tmp_path, monkeypatch, capsys):
    def full(experiment):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(autotune, "_seconds", full)
    assert autotune.resolve_placement(made, tmp_path).config.placement == "auto"
    assert "placement is not measured (RESOURCE_EXHAUSTED" in capsys.readouterr().err


def test_only_autotune_measures_and_only_where_there_is_a_choice(made, tmp_path, monkeypatch):
    monkeypatch.setattr(autotune, "_seconds", None)
    for placement in ("auto", "looped", "vmapped"):
        asked = resolve(replace(made.config, placement=placement), made.dataset)
        assert autotune.resolve_placement(asked, tmp_path) is asked
    for change in ({"method": "single"}, {"num_devices": 4}):
        alone = resolve(replace(made.config, **change), made.dataset)
        assert autotune.resolve_placement(alone, tmp_path).config.placement == "auto"
    images = ["--config=experiments/ist/digits_filters.py", "--placement=autotune"]
    config = run.parse(["run", *images, "--num_devices=1", "--workdir=unused"]).config
    assert autotune.resolve_placement(resolve(config), tmp_path).placement.name == "looped"
