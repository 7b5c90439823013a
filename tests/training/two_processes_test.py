"""Law 5 across processes: 2 processes with 2 devices end where 1 process with 4 devices does."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from cases import BATCH, TASK, dataset, on_a_graph, two_groups
from processes import ended

from ist_jax import LoopConfig, ist, run
from ist_jax.cli.commands.launch_local import free_port
from ist_jax.core.placement import sharded, subnet_mesh

HERE = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_two_processes_end_in_the_parameters_of_one(tmp_path):
    port, out = str(free_port()), tmp_path / "out.npz"
    x, y = np.zeros((64_000, 1000), np.uint8), np.arange(64_000) % 10
    np.savez(tmp_path / "big.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    command = [sys.executable, str(HERE / "two_processes.py"), port]
    started = [
        subprocess.Popen(
            [*command, str(i), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]
    printed = [out.decode() for out, _ in ended(started)]
    assert [process.returncode for process in started] == [0, 0], printed
    method = ist(
        two_groups(4), TASK, optax.sgd(0.1), batch_size=BATCH, placement=sharded(subnet_mesh(4))
    )
    results = run(
        [(method, 6 * 4 * BATCH, 3)],
        TASK,
        dataset(),
        LoopConfig(eval_every=1, eval_subnets=True),
    )
    of_graph = run(*on_a_graph(sharded(subnet_mesh(4))), LoopConfig())
    saved = np.load(out)
    for i, leaf in enumerate(jax.tree.leaves((results.params, of_graph.params))):
        np.testing.assert_allclose(saved[f"arr_{i}"], leaf, rtol=1e-5, atol=1e-6)
    rows = [
        json.loads(line)
        for line in (out.with_suffix("") / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["round"] for row in rows] == [1, 2], "records are written once, by one process"
    np.testing.assert_allclose(
        saved["accuracy"],
        [row["test"]["accuracy"] for row in (*results.history, of_graph.history[-1])],
    )
