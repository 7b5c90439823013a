"""A process of `training/evaluation_bytes_test.py`: python evaluating_processes.py PORT PROCESS_ID

Process 0 prints what evaluations sent over the loopback interface: by the meter, and by the
interface's counter.
"""

import pathlib
import sys

import jax

port, process = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)

from cases import BATCH, SGD, TASK, dataset  # noqa: E402
from custom_models import CLASSES, EXAMPLE  # noqa: E402

from ist_jax import LoopConfig, ist, run  # noqa: E402
from ist_jax.core.placement import sharded, subnet_mesh  # noqa: E402
from ist_jax.core.processes import any_process  # noqa: E402
from ist_jax.decompositions import mlp  # noqa: E402
from ist_jax.models import MLP  # noqa: E402

ROUNDS = 40


def counted():
    """Bytes that the loopback interface has sent."""
    (line,) = [
        line for line in pathlib.Path("/proc/net/dev").read_text().splitlines() if "lo:" in line
    ]
    return int(line.split(":")[1].split()[8])


def sent(eval_every):
    """Bytes of evaluations by the meter, and of everything by the interface, of both processes."""
    split = mlp(MLP((512, 512), CLASSES), EXAMPLE, num_subnets=2)
    method = ist(split, TASK, SGD, batch_size=BATCH, placement=sharded(subnet_mesh()))
    config = LoopConfig(eval_every=eval_every, calibration_examples=20)
    any_process(False)  # both have begun
    before = counted()
    results = run([(method, ROUNDS * 2 * BATCH, 1)], TASK, dataset(), config)
    any_process(False)  # both have ended
    return 2 * results.summary["evaluation_bytes_per_device"], counted() - before


seldom, often = sent(0), sent(1)
if process == 0:
    print("bytes sent:", *(more - less for more, less in zip(often, seldom)))
