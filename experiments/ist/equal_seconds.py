"""IST on Fashion-MNIST, two hidden layers of 1024, against baselines that have IST's seconds on one machine, not its samples.

    python -m ist_jax.cli.commands.run --config=experiments/ist/equal_seconds.py --config.data.dir=DIR --workdir=runs/equal_seconds

With 4 subnetworks; equal_seconds_2.py and equal_seconds_8.py are of 2 and 8. IST and the ensemble make 10 passes, the others
4, 2 and 1 with S = 2, 4 and 8. For every S each method has its best of nine values on validation data: README.md beside this
file has the tables and the grids. Expect a test accuracy of 88 % after some seconds of training on 2 CPU cores.
"""

from experiments.ist import fashion_mnist

PASSES = {2: 4.0, 4: 2.0, 8: 1.0}  # of the baselines
LOCAL_STEPS = {"ist": 200, "local_sgd": 20, "diloco": 20}
# method -> S -> (batch per worker, learning rate of Adam)
TUNED = {
    "ist": {2: (64, 0.02), 4: (64, 0.02), 8: (64, 0.005)},
    "ensemble": {2: (128, 0.001), 4: (64, 0.001), 8: (64, 0.003)},
    "single": {2: (128, 0.002), 4: (128, 0.001), 8: (128, 0.001)},
    "data_parallel": {2: (64, 0.002), 4: (64, 0.001), 8: (64, 0.005)},
    "local_sgd": {2: (64, 0.001), 4: (64, 0.001), 8: (64, 0.001)},
    "diloco": {2: (64, 0.002), 4: (64, 0.001), 8: (64, 0.002)},
}


def config_of(num_subnets):
    """The configuration for 2, 4 or 8 subnetworks."""
    config = fashion_mnist.get_config()
    config.num_subnets, config.epochs = num_subnets, PASSES[num_subnets]
    for method, best in TUNED.items():
        batch_size, learning_rate = best[num_subnets]
        config.per_method[method].update(
            {"batch_size": batch_size, "optimizer": {"learning_rate": learning_rate}}
        )
    for method, steps in LOCAL_STEPS.items():
        config.per_method[method].local_steps = steps
    for method in ("ist", "ensemble"):
        config.per_method[method].epochs = 10.0
    return config


def get_config():
    return config_of(4)
