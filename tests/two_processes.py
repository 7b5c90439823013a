"""One of two processes of `two_processes_test.py`: python two_processes.py PORT PROCESS_ID OUT.npz"""

import sys

import jax

port, process, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)  # as conftest does: float32 rounds alike in both programs
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from cases import BATCH, TASK, dataset, two_groups  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from ist_jax import LoopConfig, ist, run  # noqa: E402
from ist_jax.placement import sharded, subnet_mesh  # noqa: E402

assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
algorithm = ist(two_groups(4), TASK, optax.sgd(0.1), batch_size=BATCH, placement=sharded(subnet_mesh()))
results = run([(algorithm, 6 * 4 * BATCH, 3)], TASK, dataset(), LoopConfig(eval_every=1, eval_subnets=True))
leaves = [multihost_utils.process_allgather(leaf, tiled=True) for leaf in jax.tree.leaves(results.params)]
if process == 0:
    np.savez(out, *leaves, accuracy=[row["test_accuracy"] for row in results.history])
