"""IST on Fashion-MNIST, two hidden layers of 2048, 3 passes, 1, 2, 4 and 8 subnetworks; baselines.

    ist-jax run --config experiments/ist/fashion_mnist_wide.py --data.dir DIR --workdir runs/wide

Every method has the best of four to six values: that with the best mean over 2, 4 and 8 workers on
validation data. `single`, with one worker and batch 128, is S = 1. README.md beside this file has
the table, tuning/README.md the grids. Expect a test accuracy of 87 % after some seconds of training
on 2 CPU cores.
"""

import fashion_mnist_10_passes

from ist_jax.cli.config import Config, replace

TUNED = {
    "ist": dict(local_steps=100, optimizer=dict(learning_rate=0.002)),
    "local_sgd": dict(local_steps=20, optimizer=dict(learning_rate=0.0005)),
    "diloco": dict(local_steps=20),
    "ensemble": dict(optimizer=dict(learning_rate=0.001)),
    "single": dict(batch_size=128, optimizer=dict(learning_rate=0.0005)),
    "data_parallel": dict(optimizer=dict(learning_rate=0.001)),
}


def get_config(method="ist") -> Config:
    config = fashion_mnist_10_passes.get_config(method)
    tuned = TUNED.get(method, TUNED["diloco"])
    return replace(config, epochs=3.0, **{"model": dict(hidden=(2048, 2048)), **tuned})
