"""ist-jax benchmark graphs: its arithmetic by hand, and a quick run of it."""

import json

import numpy as np
import pytest

from ist_jax.cli.benchmarks import graphs
from ist_jax.cli.benchmarks.graph_costs import entries, flops, moved
from ist_jax.cli.benchmarks.graphs import generated
from ist_jax.cli.records import pages


def test_a_generated_graph_has_its_numbers():
    data = generated(200, 1000, features=6, classes=4)
    graph = data.arrays("test")["graph"]
    assert (
        data.notes["nodes"] == 200
        and graph.degree_N.sum() == data.notes["edges"]
        and 1900 < data.notes["edges"] < 2000
    )
    assert 0.4 < data.arrays("test")["counted_N"].mean() * 2 < 0.6 and data.num_classes == 4


def test_operations_of_a_step_by_hand():
    """The first product is constant: only its kernel has a gradient. Sums go both ways."""
    data = generated(200, 1000, features=6, classes=4)
    graph, whole = data.arrays("train")["graph"], data.arrays("test")["graph"]
    train = int(data.arrays("train")["counted_N"].sum())
    near = graph.blocks[1].shape[1]
    assert graph.blocks[1].shape[0] == train < near == graph.blocks[0].shape[0] <= 200
    assert entries(graph.blocks[0]) <= 200 + whole.degree_N.sum(), "a node is its own neighbour"
    for subnets, width in ((1, 16), (4, 4)):
        output = near if width > 4 else train
        products = 2 * graph.features.size * width + 3 * (near * width * width + output * 4 * width)
        sums = 2 * (entries(graph.blocks[0]) * width + entries(graph.blocks[1]) * 4)
        assert flops(data, 16, subnets) == 2 * (products + sums)
        taken = 3 * (near * 2 * width + output * (width + 4)) + 2 * 200 * (
            6 + width
        )  # the first has no gradient of its input
        added = 2 * entries(graph.blocks[0]) * width + 2 * entries(graph.blocks[1]) * 4
        made = sum(graph.blocks[0].shape) * width + (train + near) * 4
        parameters = 6 * width + width + width * width + width + width * 4 + 4
        assert moved(data, 16, subnets) == 4 * (
            taken + added + made + 5 * (200 + near) * width + 8 * parameters
        )


def test_cora_alone_needs_cora(capsys):
    assert graphs.main(["graph_benchmark", "--cora_only"]) == 2
    assert "--cora-only needs --cora DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_cora_alone(tmp_path, real_data):
    cora = f"--cora={real_data / 'planetoid'}"
    assert (
        graphs.main(["graph_benchmark", "--quick", cora, "--cora_only", f"--out={tmp_path}"]) == 0
    )
    content = json.loads((tmp_path / "graph_benchmark_cora.json").read_text())
    names = [row[0].split(",")[0] for row in content["rows"]]
    inference = [
        f"Cora: inference by {what} 4" for what in ("the full GCN after", "an ensemble of")
    ]
    assert names[:5] == ["Cora: the full GCN", "Cora: 4 sub-GCNs", *["Cora"] * 3], (
        "with dropout of the input both ways"
    )
    assert (
        names[5:] == [f"{inference[0]} sub-GCNs", inference[1]] and content["rows"][5][5] == "1.000"
    )


@pytest.mark.slow
def test_a_quick_run_prints_and_writes_what_a_page_shows(tmp_path, capsys):
    assert graphs.main(["graph_benchmark", "--quick", f"--out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "graph_benchmark.json").read_text())
    named = [row[0] for row in content["rows"]]
    expected = [
        f"{of}: {what}"
        for of in ("digits", "1,600 nodes, 8,000 edges")
        for what in ("the full GCN", "4 sub-GCNs, ")
    ]
    assert all(name.startswith(beginning) for name, beginning in zip(named, expected)), named
    assert [float(cell.replace(",", "")) > 0 for cell in np.array(content["rows"])[:, 1]] == [
        True
    ] * len(named)
    assert content["rows"][0][2:6] == ["1.000"] * 4 and len(named) == 8
    page = tmp_path / "page.md"
    page.write_text("text\n<!-- rows graph_benchmark.json -->\nold\n<!-- end -->\n")
    rebuilt = pages.rebuilt(page)
    assert (
        "| digits: 4 sub-GCNs, " in rebuilt
        and "grows with the power" in rebuilt
        and "old" not in rebuilt
    )
    assert "| digits: 4 sub-GCNs, " in capsys.readouterr().out
