"""ist-jax memory: shapes of graphs that are not there, and of programs compiled from shapes."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import graph_dataset, raw_graph

from ist_jax.analysis.meter import memory_bytes
from ist_jax.cli.commands import memory, run
from ist_jax.cli.experiment import resolve
from ist_jax.data import GraphOptions
from ist_jax.data.graph_shapes import GraphSize, graph_shapes

ROOT = pathlib.Path(__file__).parent.parent.parent
SAGE = [
    f"--config={ROOT}/experiments/gist/digits_graph.py",
    "--model.name=sage",
    "--model.hidden",
    "64",
    "64",
]


@pytest.mark.parametrize("degree,first_product", [(4, "mean"), (70, "symmetric")])
def test_shapes_are_those_of_a_real_graph_whose_nodes_have_as_many_neighbours(
    degree, first_product
):
    """Nodes of a ring, joined to so many next ones: with 70, neighbours overflow their rows."""
    nodes, clusters = 120, 5
    senders = np.repeat(np.arange(nodes), degree // 2)
    receivers = (senders + np.tile(np.arange(1, degree // 2 + 1), nodes)) % nodes
    raw = raw_graph(nodes, edges_2xE=np.stack([senders, receivers]))
    real = graph_dataset(raw, first_product=first_product, clusters=clusters)
    size = GraphSize(nodes, len(senders), raw.features_NxD.shape[1], real.num_classes)
    spec, shapes = graph_shapes(size, GraphOptions(first_product, clusters=clusters))
    assert spec == real.spec

    def described(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype).name), dict(tree))

    expected = described(real.arrays("train"))
    if len(set(np.diff(real.arrays("train")["start"]))) > 1:  # METIS may cut unevenly
        expected, shapes = (
            {name: tree for name, tree in of.items() if "slot" not in name}
            for of in (expected, shapes)
        )
    assert described(shapes) == expected
    assert (degree > 64) == bool(shapes["graph"].receiver_R.shape[0])


@pytest.mark.slow
def test_a_device_holds_what_the_compiled_round_of_a_real_run_says(tmp_path, capsys):
    assert memory.main(["memory", *SAGE, "--subnets", "2", "8", f"--out={tmp_path}"]) == 0
    kept = json.loads((tmp_path / "memory.json").read_text())
    two, eight = kept["bytes"]
    assert kept["rows"][1][:2] == ["8", "17,802"] and "| 8 | 17,802 |" in capsys.readouterr().out
    assert two["parameters"] == 17_802 == 2 * 64 * 64 + 64 + 2 * 64 * 64 + 64 + 2 * 64 * 10 + 10
    assert eight["subnet_parameters"] == 2 * 64 * 8 + 8 + 2 * 8 * 8 + 8 + 2 * 8 * 10 + 10
    assert eight["state"] < two["state"] / 3 and eight["temporary"] < two["temporary"]
    sharded = ["--num_subnets=8", "--placement=sharded", "--workdir=unused"]
    experiment = resolve(run.parse(["run", *SAGE, *sharded]).config)
    data, method = experiment.data, experiment.phases[0].method
    state = method.fresh(jax.random.key(0))
    view = next(data.views(jax.random.key(1), 8, method.sharding, [range(1)]))
    key, weight_S = jax.device_put((jax.random.key(2), jnp.ones(8)), method.sharding)
    real = memory_bytes(
        method, method.round.lower(state, view, key, weight_S, steps=2).compile(), state, view
    )
    assert {name: eight[name] for name in real} == real


@pytest.mark.slow
def test_a_wide_model_on_a_large_graph_is_measured_without_being_allocated(tmp_path):
    """0.9 GB of parameters, a share of them on each of 8 devices; 2.7 GB of data on every one."""
    before = sum(array.nbytes for array in jax.live_arrays())
    config = [
        f"--config={ROOT}/experiments/gist/products_ultrawide.py",
        "--model.hidden",
        "10240",
        "10240",
    ]
    graph = ["--graph", "2500000", "61800000", "100", "47"]
    assert memory.main(["memory", *config, *graph, "--subnets=8", f"--out={tmp_path}"]) == 0
    assert sum(array.nbytes for array in jax.live_arrays()) - before < 2**20
    (eight,) = json.loads((tmp_path / "memory.json").read_text())["bytes"]
    whole = 4 * eight["parameters"]
    assert whole > 8e8 and eight["data"] > 2e9 and eight["state"] < 1.01 * whole / 8
    assert eight["peak"] - eight["data"] < whole, (
        "parameters, gradients and Adam's moments, of one device: less than a model"
    )


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--subnets=0"], "--subnets is numbers above 0, not '0'"),
        (["--graph", "5", "6"], "--graph is 4 numbers above 0, not '5 6'"),
        (["--subnets=16"], "num_devices=16 is more than the 8 devices"),
        (
            [
                "--model.name=mlp",
                "--model.norm=none",
                "--model.dropout=0.0",
                *("--graph", "9", "9", "9", "9"),
            ],
            "--graph is for graph networks",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, says, capsys):
    assert memory.main(["memory", *SAGE, *arguments]) == 2
    assert says in capsys.readouterr().err
