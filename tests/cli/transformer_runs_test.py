"""Transformers from the command line: trained on text, exported, evaluated, and asked for text."""

import json
import math

import jax
import numpy as np
import pytest
from bigrams import TEXT, text_file
from cases import also_slowly
from command_line import ROOT, exported

from ist_jax import export
from ist_jax.cli.commands import evaluate, memory, plan, run
from ist_jax.cli.experiment import resolve
from ist_jax.data import Spec
from ist_jax.data.text import decode, encode
from ist_jax.models import generate

CONFIG = f"--config={ROOT}/experiments/lm/tiny_shakespeare.py"
SMALL = [
    CONFIG,
    *("--model.width=16", "--model.layers=2", "--model.heads=2", "--data.context=16"),
    *("--data.validation_fraction=0.2", "--batch_size=8", "--local_steps=4", "--eval_every=0"),
    "--time_syncs=False",
]


def trained(folder, *arguments):
    """The workdir and the summary of a run on a small text."""
    data = f"--data.dir={text_file(folder)}"
    workdir = folder / "run"
    assert run.main(["run", *SMALL, data, f"--workdir={workdir}", *arguments]) == 0
    return workdir, json.loads((workdir / "summary.json").read_text())


def test_a_transformer_is_trained_exported_and_generates_text(tmp_path, capsys):
    workdir, summary = trained(tmp_path, "--epochs=39.8", "--placement=looped")  # whole rounds
    last = summary["last"]["test"]
    assert last["loss"] < 0.7 * math.log(len(set(TEXT))), "it has learned"
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]), rel=1e-5)
    assert last["bits_per_byte"] == pytest.approx(last["loss"] / math.log(2), rel=1e-5)
    assert summary["parameters"]["per_device"] < summary["parameters"]["model"]

    out = tmp_path / "out"
    assert exported(workdir, out) == 0
    score = evaluate.score(str(out), directory=str(tmp_path / "text.txt"))
    assert score == pytest.approx(last, rel=1e-5)
    model, variables, about = export.read(out)
    vocabulary = about["data"]["spec"]["vocabulary"]
    prompt = encode("the quick", vocabulary)[None]
    drawn = generate(model, variables["params"], prompt, 20, jax.random.key(0))
    text = decode(drawn[0], vocabulary)
    assert text.startswith("the quick") and len(text) == 29

    text_file(tmp_path, TEXT.upper(), "other.txt")
    argv = ["evaluate", f"--model={out}", f"--dir={tmp_path}/other.txt"]
    assert evaluate.main(argv) == 2
    assert "or train with data.vocabulary=bytes" in capsys.readouterr().err


SHAKESPEARE = Spec((128,), 65, 7842, 0.0, 1.0, "next_token", "int32")
SHARED = 65 * 128 + 128 + 4 * 256  # embedding and norms
ATTENTION, MLP = 4 * 128 * 128, 2 * 128 * 512  # of a layer
ON_A_DEVICE = {
    "neurons": SHARED + 4 * (ATTENTION + MLP // 2),
    "neurons_heads": SHARED + 4 * (ATTENTION + MLP) // 2,
    "layers": SHARED - 2 * 256 + 2 * (ATTENTION + MLP),
}


@pytest.mark.parametrize("name", also_slowly(["neurons"], ON_A_DEVICE))
def test_the_experiment_has_796_thousand_parameters_and_1500_steps(name):
    given = ["--workdir=x", "--data.dir=x", f"--decomposition={name}"]
    (phase,) = resolve(run.parse(["run", CONFIG, *given]).config, spec=SHAKESPEARE).phases
    costs = phase.method.costs
    assert costs.model_parameters == SHARED + 4 * (ATTENTION + MLP) == 795_904
    assert costs.device_parameters == ON_A_DEVICE[name]
    assert phase.samples == pytest.approx(1500 * 16, abs=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--decomposition=heads", "--model.scan=False", "--method=ensemble"],
        ["--decomposition=layers", "--opt_state=carry", "--eval_subnets=True"],
        ["--decomposition=experts", "--model.experts=4", "--num_devices=2", "--placement=sharded"],
        [
            "--method=local_sgd",
            "--model.dtype=bfloat16",
            "--model.remat=full",
            "--model.kv_heads=1",
        ],
        ["--data.vocabulary=bytes", "--data.split=disjoint", "--model.positions=learned"],
        ["--warmup_fraction=0.3", "--dense_fraction=0.3", "--model.dropout=0.1"],
    ],
)
def test_options_of_transformers_run(arguments, tmp_path):
    _, summary = trained(tmp_path, "--epochs=2", *arguments)
    assert summary["flops_per_device"] > 0
    assert np.isfinite(summary["last"]["test"]["loss"])


@pytest.mark.slow
def test_a_round_on_text_is_planned_and_its_memory_estimated(tmp_path, capsys):
    data = [*SMALL, f"--data.dir={text_file(tmp_path)}"]
    assert memory.main(["memory", *data, "--subnets", "2"]) == 0
    small = ["--subnets", "2", "--steps", "4", "--repeats=1"]
    assert plan.main(["plan", *data, *small]) == 0
    assert "| ist | 2 | 4 |" in capsys.readouterr().out
