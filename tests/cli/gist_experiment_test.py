"""GIST through the command line: run, record, export and evaluation as of any other model."""

import json
import pathlib

import numpy as np
import pytest
from cases import DECOMPOSITIONS, inputs, random_params

from ist_jax.cli.commands import evaluate, export, run
from ist_jax.cli.records import pictures
from ist_jax.training.export import read

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALL = [
    f"--config={ROOT}/experiments/gist/digits_graph.py",
    "--model.hidden",
    "16",
    "16",
    "--epochs=40",
    "--local_steps=5",
    "--eval_every=0",
]


def trained(workdir, *arguments):
    assert run.main(["run", *SMALL, *arguments, f"--workdir={workdir}"]) == 0
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def gist(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gist")
    return workdir, trained(workdir)


@pytest.mark.slow
def test_a_run_of_gist_leaves_the_record_of_any_run(gist):
    workdir, summary = gist
    assert summary["samples_seen"] == 40 and summary["local_steps"] == 10, (
        "40 epochs, split over 4 sub-GCNs"
    )
    layers = lambda hidden: 64 * hidden + hidden + hidden * hidden + hidden + hidden * 10 + 10
    assert summary["parameters"] == {"model": layers(16), "per_device": layers(4)}
    data = json.loads((workdir / "config.json").read_text())["environment"]["data"]
    assert data["notes"]["nodes"] == 1797 and data["spec"]["task"] == "node_classification"


@pytest.mark.slow
@pytest.mark.parametrize("subnet", [None, 1])
def test_an_exported_graph_network_scores_as_it_did(gist, subnet, tmp_path):
    about = export.write(str(gist[0]), str(tmp_path / "out"), subnet)
    if subnet is None:
        assert about["metrics"]["test"]["accuracy"] == pytest.approx(
            gist[1]["last"]["test"]["accuracy"], abs=1e-6
        )
    exported = read(tmp_path / "out")
    assert exported.model.hidden == ((16, 16) if subnet is None else (4, 4))
    assert evaluate.score(str(tmp_path / "out"))["accuracy"] == pytest.approx(
        about["metrics"]["test"]["accuracy"], abs=1e-6
    )
    assert evaluate.main(["evaluate", f"--model={tmp_path}/out", "--name=digits"]) == 2, (
        "vectors are no graph"
    )


METHODS = (
    ["local_sgd"],
    ["ensemble"],
    ["data_parallel"],
    ["single"],
    ["ist", "sage"],
    ["ist", "gat"],
)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", METHODS, ids="-".join)
def test_baselines_and_other_models_run_through_the_same_path(arguments, tmp_path):
    method, *model = arguments
    chosen = [f"--model.name={name}" for name in model]
    enough = {
        "sage": ["--epochs=600", "--model.hidden", "64", "64"],
        "gat": ["--epochs=120"],
    }
    few = ["--epochs=8", "--local_steps=2"]
    summary = trained(
        tmp_path, f"--method={method}", *chosen, *(enough[model[0]] if model else few)
    )
    assert np.isfinite(summary["last"]["test"]["accuracy"]) and (
        model or summary["samples_seen"] == 8
    )
    assert not model or summary["last"]["test"]["accuracy"] > 0.6, "it learns, of ten classes"


@pytest.mark.slow
def test_batches_of_clusters_and_evaluation_over_parts(tmp_path, capsys):
    clusters = [
        "--data.clusters=8",
        "--batch_size=2",
        "--eval_batch_size=2",
        "--epochs=2",
    ]
    summary = trained(tmp_path, *clusters)
    assert summary["samples_seen"] == 16 and summary["local_steps"] == 2
    says = "evaluation is over 4 parts of the graph, without the edges between them: "
    says += "eval_batch_size=2 of data.clusters=8"
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_projected_input_features_are_dealt_recorded_and_exported_with_their_model(tmp_path):
    options = [
        "--data.projection=24",
        "--model.split_input=True",
        "--seed=3",
        "--epochs=20",
    ]
    summary = trained(tmp_path / "run", *options)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (
        record["config"]["data.projection"]
        == record["environment"]["data"]["notes"]["projection"]
        == 24
    )
    assert summary["parameters"]["per_device"] == 6 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10
    about = export.write(str(tmp_path / "run"), str(tmp_path / "out"), None)
    assert about["metrics"]["test"]["accuracy"] == pytest.approx(
        summary["last"]["test"]["accuracy"], abs=1e-6
    )
    assert evaluate.score(str(tmp_path / "out"))["accuracy"] == pytest.approx(
        summary["last"]["test"]["accuracy"], abs=1e-6
    )


def test_a_picture_of_the_nodes_before_and_after_training(gist, tmp_path):
    pictures.nodes(gist[0], tmp_path / "nodes.png")
    assert (tmp_path / "nodes.png").read_bytes().startswith(b"\x89PNG")
    line = np.arange(6)[:, None] * np.array([[1.0, 2.0, -1.0]])
    place = pictures.projected(line + 5)
    np.testing.assert_allclose(np.abs(np.diff(place[:, 0])), np.sqrt(6), rtol=1e-6)
    np.testing.assert_allclose(place[:, 1], 0, atol=1e-6)


def test_the_embedding_of_a_node_is_what_the_output_layer_reads():
    """GraphSAGE: its product with the kernel is the output. The others: by their sizes."""
    embeddings = {}
    for name in ("gcn-uneven", "sage-layer-norm", "gat"):
        split = DECOMPOSITIONS[name](2)
        params, graph = random_params(split), inputs(split)
        embeddings[name] = pictures.embeddings(split.full, params, graph)
    assert {name: x.shape[1] for name, x in embeddings.items()} == {
        "gcn-uneven": 8,
        "sage-layer-norm": 2 * 16,
        "gat": 2 * 8,
    }
    split = DECOMPOSITIONS["sage-layer-norm"](2)
    params, graph = random_params(split), inputs(split)
    kernel, bias = (params["output"][name] for name in ("kernel", "bias"))
    logits = embeddings["sage-layer-norm"] @ kernel.reshape(32, -1) + bias[None]
    np.testing.assert_allclose(logits, split.full.apply(params, graph), rtol=1e-4, atol=1e-4)
