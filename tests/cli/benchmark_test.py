"""ist-jax benchmark rounds runs, and says what it measured. Times themselves are not tested."""

import json
import pathlib
import subprocess
import sys

import pytest

from ist_jax.analysis import hlo
from ist_jax.cli.benchmarks import machine, rounds, rows, timing

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_quick_benchmark_prints_and_writes_its_rows(tmp_path):
    command = [sys.executable, "-m", "ist_jax", "benchmark", "rounds"]
    command += ["--quick", f"--out={tmp_path}"]
    # nearly all of it is compiling, which takes longer where other tests share the cores
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["machine"]["cores"] and content["machine"]["jax"]
    whats = " ".join(row["what"] for row in content["rows"])
    for part in (
        "round of 5 steps, looped (the rule)",
        "round of 5 steps, vmapped,",
        "5 steps by hand",
        "one device",
        "4 devices",
        "holder-sharded, sharded",
        "repartition",
        "step of the full network, batch 256",
    ):
        assert part in whats
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in content["rows"])
    assert (tmp_path / "benchmark.md").read_text() in ended.stdout
    syncs = {
        row["what"].split(",")[1].strip(): row
        for row in content["rows"]
        if "bytes_per_device" in row
    }
    assert (
        syncs["holder-sharded"]["bytes_per_device"]
        < syncs["all groups home-sharded"]["bytes_per_device"]
    )


def test_steps_by_hand_and_products_are_of_the_same_work():
    network = timing.Network(32, (16, 8), 4, 2)
    assert timing.product_flops(network) == 2 * 128 * (3 * (32 * 8 + 8 * 4 + 4 * 4) - 32 * 8)
    assert network.name == "32-16-8-4, S=2"
    assert timing.by_hand(network, 2)().shape == (2, 2)
    products, given = timing.products(network, 3)
    assert [leaf.shape for leaf in products(*given)] == [(2, 32, 8), (2, 8, 4), (2, 4, 4)], (
        "one per weight and subnetwork"
    )
    assert min(timing.median_seconds([timing.by_hand(network, 2), lambda: products(*given)], 1)) > 0


def test_every_step_computes_all_its_products():
    """None is computed once for all steps, or left out: no step can do with less.

    3 steps of 2 subnetworks, 8 products each: three forward, three for weights, two for inputs.
    """
    text = timing.products(timing.Network(32, (16, 8), 4, 2), 3)[0].as_text()
    computations, entry = hlo._computations(text)

    def run(name, times):
        lines = computations.get(name, ())
        inside = (
            run(called, times * often) for line in lines for called, often in hlo._called(line)
        )
        return times * sum(" dot(" in line for line in lines) + sum(inside)

    assert run(entry, 1) == 3 * 2 * 8


def test_the_authors_times_stand_beside_ours_in_their_sizes():
    assert [(n.features, n.hidden, n.num_subnets) for n in rounds.FULL.authors] == list(
        rows.AUTHORS
    )
    row = {
        "what": "step",
        "seconds": 0.06,
        "ratio": 1.0,
        "to": "steps by hand",
        "authors_seconds": 0.051,
    }
    assert (
        rounds.markdown([row])
        .splitlines()[-1]
        .endswith("| authors' release, on another day: 51 ms |")
    )


def test_the_exponent_of_a_power():
    assert machine.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
