"""Convolutional networks from a configuration: what is built, schedules, and one whole run."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from cases import BATCH, TASK, rounds, two_groups

from ist_jax import ist
from ist_jax.cli import optimizers
from ist_jax.cli.commands import run
from ist_jax.cli.config import Config, replace
from ist_jax.cli.experiment import resolve
from ist_jax.data import Spec
from ist_jax.training.loop import phase_steps

ROOT = pathlib.Path(__file__).parent.parent.parent
DIGITS = f"--config={ROOT}/experiments/resist/digits.py"


def configured(file, *fields):
    """The configuration of a file of experiments, whose data are not read."""
    place = [] if file == "resist/digits" else ["--data.dir=x"]
    arguments = ["run", f"--config={ROOT}/experiments/{file}.py", "--workdir=x", *place, *fields]
    return run.parse(arguments).config


CIFAR = Spec((32, 32, 3), 10, 45_000, 120.0, 64.0)


@pytest.mark.parametrize(
    "file,classes,model,device",
    [
        ("resist/cifar10", 10, 41_350_730, 15_375_946 + 6 * 1_180_672),  # 22 blocks in 4 x 6 slots
        ("resist/cifar100", 100, 41_396_900, 15_422_116 + 6 * 1_180_672),
        ("resist/cifar10_small", 10, 1_218_650, 1_218_650 - 4 * 73_984),
        ("ist/cifar10_resnet18", 10, 11_173_962, 6_472_362),
        ("ist/cifar10_vgg12", 10, 9_791_680, 614_704),
    ],
)
def test_every_experiment_builds_the_papers_network(file, classes, model, device):
    (phase,) = resolve(configured(file), spec=CIFAR._replace(num_classes=classes)).phases
    costs = phase.method.costs
    assert (costs.model_parameters, costs.device_parameters) == (model, device)
    assert costs.bytes_per_sync < costs.all_reduce


def test_slots_that_are_empty_are_said():
    """22 blocks for 4 sub-ResNets of 6; none if they overlap, and none in local SGD's warm-up."""
    for fields, says in (
        (
            ["--warmup_fraction=0.1"],
            "stage_3: 22 units in 4 x 6 slots; the 2 empty slots are stored and computed, too",
        ),
        (["--min_blocks=6"], ""),
        (["--num_subnets=2"], ""),
    ):
        phases = resolve(configured("resist/cifar10", *fields), spec=CIFAR).phases
        assert "\n".join(run.padding(phases)) == says


def test_momentum_decays_as_demon_says():
    """beta (1 - t/T) / (1 - beta + beta (1 - t/T)): of 0.9, half way, 0.45 / 0.55."""
    momentum = optimizers.demon(0.9, 100)
    assert [float(momentum(step)) for step in (0, 50, 100, 101)] == pytest.approx(
        [0.9, 0.45 / 0.55, 0.0, 0.0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("opt_state", ["reset", "carry"])
def test_momentum_decays_on_the_global_step_though_the_state_is_reset(opt_state):
    chosen = dataclasses.replace(
        Config().optimizer, momentum=0.9, momentum_schedule="demon", learning_rate=0.1
    )
    tx, momentum = optimizers.local_optimizer(chosen, 12), optimizers.demon(0.9, 12)
    method = ist(two_groups(2), TASK, tx, batch_size=BATCH, opt_state=opt_state)
    state, _ = rounds(method, 2, 3)
    worker = method.first_worker(state)
    arrays = {"x": jnp.ones((4, 12)), "y": jnp.zeros(4, jnp.int32)}
    gradient = jax.grad(lambda p: (two_groups(2).subnet.apply(p, arrays["x"]) ** 2).sum())(
        worker.params
    )
    _, later = tx.update(gradient, worker.opt_state, worker.params)
    used = next(
        node for node in jax.tree.leaves(later, is_leaf=_injected) if _injected(node)
    ).hyperparams["momentum"]
    assert float(used) == pytest.approx(float(momentum(6)))


def _injected(node):
    return hasattr(node, "hyperparams")


def test_local_steps_that_change_are_phases_of_equal_samples():
    steps = ["--local_steps=2", "--local_steps_schedule", "4", "8"]
    config = replace(configured("resist/digits", *steps), warmup_fraction=0.1, dense_fraction=0.3)
    experiment = resolve(config)
    phases = experiment.phases
    assert [phase.local_steps for phase in phases] == [2, 2, 4, 8, 2]
    whole = 20 * experiment.spec.num_train
    assert [phase.samples / whole for phase in phases] == pytest.approx(
        [0.1, 0.2, 0.2, 0.2, 0.3], abs=1e-3
    )
    assert len({phase_steps(phase) for phase in phases[1:4]}) == 1


@pytest.mark.slow
def test_a_residual_network_runs_from_the_command_line(tmp_path):
    """Warm-up by local SGD, then two parts of ResIST with overlapping blocks; started again."""
    arguments = [
        "run",
        DIGITS,
        f"--workdir={tmp_path}",
        "--model.stage_sizes",
        "1",
        "4",
        "--model.width=2",
    ]
    arguments += [
        "--split_stages",
        "2",
        "--min_blocks=2",
        "--epochs=3",
        "--warmup_fraction=0.2",
    ]
    arguments += [
        "--local_steps_schedule",
        "5",
        "--eval_every=0",
        "--optimizer.momentum_schedule=demon",
    ]
    assert run.main(arguments) == 0 and run.main(arguments) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    block = 2 * 9 * 4 * 4 + 4 * 4
    assert summary["parameters"]["model"] - summary["parameters"]["per_device"] == block, (
        "two of three blocks"
    )
    assert (
        summary["last"]["test"]["accuracy"] > 0.15
        and summary["flops_per_local_step_per_device"] > 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filters", "channels"])
def test_dealt_filters_and_channels_learn_from_the_command_line(kind, tmp_path):
    config = f"--config={ROOT}/experiments/ist/digits_{kind}.py"
    small = {
        "filters": ["--model.stage_sizes", "2", "--model.width=8"],
        "channels": ["--model.channels", "16", "0", "16"],
    }
    arguments = [
        "run",
        config,
        *small[kind],
        "--epochs=8",
        "--eval_every=0",
        f"--workdir={tmp_path}",
    ]
    assert run.main([*arguments, "--eval_subnets=True"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["parameters"]["per_device"] < 0.8 * summary["parameters"]["model"]
    assert summary["last"]["test"]["accuracy"] > 0.5, "of ten classes"


def test_resist_on_imagenet_builds_the_papers_network_with_a_warm_up():
    spec = Spec((224, 224, 3), 1000, 1_268_355, 120.0, 64.0)
    phases = resolve(configured("resist/imagenet"), spec=spec).phases
    warmup, resist = (phase.method.costs for phase in phases)
    assert [phase.local_steps for phase in phases] == [15, 15]
    assert (
        warmup.device_parameters == warmup.model_parameters == resist.model_parameters == 41_866_280
    )
    assert resist.model_parameters - resist.device_parameters == 12 * 1_180_672, "10 of 22 blocks"


@pytest.mark.parametrize(
    "file,batch,passes,local_steps,rate,schedule",
    [
        ("cifar10", 128, 160, 50, 0.03, "step"),
        ("cifar100", 128, 160, 50, 0.03, "step"),
        ("imagenet", 256, 90, 15, 0.1, "thirds"),
    ],
)
def test_the_configs_have_the_papers_schedule(file, batch, passes, local_steps, rate, schedule):
    config = configured(f"resist/{file}")
    assert (config.batch_size, config.epochs, config.local_steps) == (batch, passes, local_steps)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.schedule) == ("sgd", rate, schedule)
    assert (optimizer.momentum, optimizer.weight_decay, config.model.width) == (0.9, 0.0005, 64)
    assert config.model.stage_sizes == (3, 4, 23, 3) and config.num_subnets == 4
