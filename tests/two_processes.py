"""A process of `two_processes_test.py`: python two_processes.py PORT PROCESS_ID OUT.npz"""

import fcntl
import functools
import pathlib
import sys

import jax

port, process, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update(
    "jax_disable_most_optimizations", True
)  # as conftest does: float32 rounds alike in both programs
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from cases import BATCH, TASK, dataset, on_a_graph, two_groups  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from ist_jax import LoopConfig, ist, run  # noqa: E402
from ist_jax.analysis.links import Link  # noqa: E402
from ist_jax.core.placement import sharded, subnet_mesh  # noqa: E402
from ist_jax.data import load  # noqa: E402
from ist_jax.data.splits import shards_of  # noqa: E402
from ist_jax.training.loop import Stopped  # noqa: E402
from ist_jax.training.workdir import WorkdirError  # noqa: E402

assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
data = dataset(shards=functools.partial(shards_of, "disjoint", 0, 1.0))
view = next(
    data.views(jax.random.key(0), 4, sharded(subnet_mesh()).replicated_sharding, [range(1)])
)
members = np.array_split(data.shards(4).member_N, 4)[2 * process : 2 * process + 2]
for part, rows in zip(
    view.arrays["x"].tree.addressable_shards, members, strict=True
):  # no other process's examples
    np.testing.assert_array_equal(part.data, data.train["x"][rows])


def memory():
    """Bytes of this process that are of no file."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


if pathlib.Path(
    "/proc/self/status"
).exists():  # 64 MB of rows, half of which the workers of this process draw
    before = memory()
    big = load(
        "npz",
        str(pathlib.Path(out).with_name("big.npz")),
        split="disjoint",
        validation_fraction=0.01,
    )
    view = next(
        big.views(jax.random.key(0), 4, sharded(subnet_mesh()).replicated_sharding, [range(1)])
    )
    held = sum(part.data.nbytes for part in view.arrays["x"].tree.addressable_shards)
    assert 31e6 < held < 33e6 and memory() - before < 56e6, (
        held,
        memory() - before,
    )  # 96 MB with all rows on the host
    del big, view
method = ist(
    two_groups(4), TASK, optax.sgd(0.1), batch_size=BATCH, placement=sharded(subnet_mesh())
)
phases, config = [(method, 6 * 4 * BATCH, 3)], LoopConfig(eval_every=1, eval_subnets=True)
try:  # both refuse: the time of training has the exchange between them
    run(phases, TASK, dataset(), LoopConfig(link=Link(1e6)))
    raise AssertionError("it simulated a link where there is a real one")
except ValueError as error:
    assert "exchange over a real one" in str(error)
workdir = pathlib.Path(out).with_suffix("")
try:  # one process is asked to stop, both do, and go on from their checkpoint
    run(phases, TASK, dataset(), config, workdir, stop=lambda: process == 1)
    raise AssertionError("it did not stop")
except Stopped as stopped:
    assert "round 1" in str(stopped)
taken = workdir.with_name("taken")
if process == 0:
    taken.mkdir()
    held = (taken / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
try:  # what only process 0 can see ends both
    run(phases, TASK, dataset(), config, taken)
    raise AssertionError("the workdir is another run's")
except WorkdirError as error:
    assert (
        "another run is writing here" if process == 0 else "another process of this run failed"
    ) in str(error)
results = run(phases, TASK, dataset(), config, workdir)
of_graph = run(*on_a_graph(sharded(subnet_mesh())), LoopConfig())
params = (results.params, of_graph.params)
leaves = [multihost_utils.process_allgather(leaf, tiled=True) for leaf in jax.tree.leaves(params)]
accuracy = [row["test"]["accuracy"] for row in (*results.history, of_graph.history[-1])]
if process == 0:
    np.savez(out, *leaves, accuracy=accuracy)
