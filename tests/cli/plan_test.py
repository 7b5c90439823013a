"""ist-jax plan: its arithmetic, its files, its errors."""

import json
import pathlib

import pytest

from ist_jax.analysis.links import Link
from ist_jax.cli import builders
from ist_jax.cli.commands import plan
from ist_jax.cli.records import drawing

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALL = [
    f"--config={ROOT}/experiments/demo/digits.py",
    "--model.hidden",
    "32",
    "32",
    "--repeats=1",
]


@pytest.mark.slow
def test_a_plan_is_printed_and_written(tmp_path, capsys):
    out = tmp_path / "plan"
    slow = ["--bandwidth=8Mbps", "--latency=10ms"]
    assert (
        plan.main(
            ["plan", *SMALL, *slow, "--subnets", "1", "4", "--steps", "5", "50", f"--out={out}"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        out / "plan.md"
    ).read_text().strip() == printed.strip() and "as fast as this machine" in printed
    rows = json.loads((out / "plan.json").read_text())
    assert {(r["method"], r["S"], r["J"]) for r in rows} == {
        (m, s, j) for m in plan.COMPARED for s in (1, 4) for j in (5, 50)
    }
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "plan.svg").read_text().lower()
    assert all(drawing.METHOD_COLOURS[method].lower() in drawn for method in plan.COMPARED)

    def of(method, subnets, steps):
        return next(r for r in rows if (r["method"], r["S"], r["J"]) == (method, subnets, steps))

    for r in rows:
        assert r["utilisation"] == pytest.approx(r["J"] * r["step_seconds"] / r["round_seconds"])
        on_link = r["round_seconds"] - r["J"] * r["step_seconds"]
        assert on_link >= r["bytes_per_round"] / 1e6 - 1e-9
        assert (r["bytes_per_round"] == 0) == (r["S"] == 1)
    assert (
        of("data_parallel", 4, 50)["bytes_per_round"]
        == 50 * of("local_sgd", 4, 50)["bytes_per_round"]
    )
    assert of("ist", 4, 50)["bytes_per_round"] < of("local_sgd", 4, 50)["bytes_per_round"] / 4
    assert of("ist", 4, 50)["memory_bytes"] < of("local_sgd", 4, 50)["memory_bytes"] / 3
    assert of("local_sgd", 4, 5)["utilisation"] < of("local_sgd", 4, 50)["utilisation"]


@pytest.mark.slow
def test_a_plan_takes_every_methods_own_values_and_the_link_of_the_config(capsys):
    """The file's local SGD averages Adam's moments, too: three times its parameters' bytes."""
    file = f"--config={ROOT}/experiments/ist/fashion_mnist_10_passes.py"
    arguments = [
        file,
        "--data.name=digits",
        "--model.hidden",
        "16",
        "--link.bandwidth=3Mbps",
    ]
    configs = {method: plan.configured(method, ["plan", *arguments])[1] for method in plan.COMPARED}
    assert {m: c.optimizer.learning_rate for m, c in configs.items()} == {
        "ist": 0.01, "data_parallel": 0.002, "local_sgd": 0.001, "diloco": 0.001,
        "streaming_diloco": 0.001,
        "sparse_loco": 0.001,
    }  # fmt: skip
    measured = [
        plan.measure(configs[method], builders.load_dataset(configs[method]), 4, 1)
        for method in ("local_sgd", "data_parallel")
    ]
    averaged, plain = (one.method.costs.bytes_per_sync for one in measured)
    assert 2.9 * plain < averaged <= 3.1 * plain
    assert plan.main(["plan", *arguments, "--subnets=2", "--steps=5", "--repeats=1"]) == 0
    assert "A link of 3Mbps and" in capsys.readouterr().out
    record = plan.configured(
        "data_parallel", ["plan", *arguments, "--opt_state=carry", "--exchange.compression=int8"]
    )[1]
    assert (
        record.method == "data_parallel"
        and record.opt_state == "auto"
        and record.exchange.compression == "exact"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "file,fields",
    [
        (
            "ist/digits_channels.py",
            ["--model.channels", "4", "0", "4", "--model.hidden", "4"],
        ),
        ("gist/digits_graph.py", ["--model.hidden", "8", "8"]),
    ],
    ids=["channels", "graph"],
)
def test_a_plan_of_other_models(file, fields, tmp_path):
    arguments = [
        f"--config={ROOT}/experiments/{file}",
        *fields,
        *("--subnets", "1", "2"),
        "--steps=5",
        "--repeats=1",
    ]
    assert plan.main(["plan", *arguments, f"--out={tmp_path}"]) == 0
    of = {(r["method"], r["S"]): r for r in json.loads((tmp_path / "plan.json").read_text())}
    assert len(of) == 2 * len(plan.COMPARED) and all(r["step_seconds"] > 0 for r in of.values())
    assert 0 < of["ist", 2]["bytes_per_round"] < of["local_sgd", 2]["bytes_per_round"]
    assert of["ist", 2]["memory_bytes"] < of["local_sgd", 2]["memory_bytes"]


def test_a_row_by_hand():
    class Costs:
        link_seconds = staticmethod(lambda link, steps: link.seconds(1000, 2))
        bytes_per_round = staticmethod(lambda steps: 1000)

    class Method:
        costs, batch_size = Costs, 8

    row = plan.row(plan.Measured("ist", 4, Method, 0.01, 77), 10, Link(500.0, 0.25))
    assert row["round_seconds"] == pytest.approx(0.1 + 2 + 0.5)
    assert row["samples_per_second"] == pytest.approx(4 * 8 * 10 / 2.6)


def test_more_subnetworks_than_units_are_left_out(capsys):
    assert plan.main(["plan", *SMALL, "--subnets=64", "--steps=5"]) == 0
    captured = capsys.readouterr()
    assert (
        "ist, S=64: left out" in captured.err
        and "| ist |" not in captured.out
        and "| local_sgd |" in captured.out
    )


@pytest.mark.parametrize(
    "argument,says",
    [
        ("--bandwidth=fast", "--bandwidth is a number with one of the units"),
        ("--latency=1", "--latency is a number with"),
        ("--subnets=0", "--subnets is numbers above 0 such as 1 2 4, not '0'"),
        ("--steps=a", "--steps is integers such as 256 256, not 'a'"),
        ("--seeed=1", "did you mean"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(argument, says, capsys):
    assert plan.main(["plan", *SMALL, argument]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
