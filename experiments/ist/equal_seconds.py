"""IST on Fashion-MNIST, two hidden layers of 1024, against baselines that have IST's seconds on one machine, not its samples.

    python -m experiments.run --config=experiments/ist/equal_seconds.py --config.data.dir=DIR --workdir=runs/equal_seconds

With 4 subnetworks; equal_seconds_2.py and equal_seconds_8.py are of 2 and 8. IST and the ensemble make 10 passes, the others
4, 2 and 1 with S = 2, 4 and 8. For every S each method has its best of nine values on validation data: README.md beside this
file has the tables and the grids. Expect a test accuracy of 88 % after some seconds of training on 2 CPU cores.
"""

from experiments.ist import fashion_mnist

PASSES = {2: 4.0, 4: 2.0, 8: 1.0}  # of the baselines


def _best(batch_size, learning_rate, **others):
    return {"batch_size": batch_size, "optimizer": {"name": "adam", "learning_rate": learning_rate}, **others}


TUNED = {
    2: {
        "ist": _best(64, 0.02, local_steps=200),
        "ensemble": _best(128, 0.001),
        "single": _best(128, 0.002),
        "data_parallel": _best(64, 0.002),
        "local_sgd": _best(64, 0.001, local_steps=20),
        "diloco": _best(64, 0.002, local_steps=20),
    },
    4: {
        "ist": _best(64, 0.02, local_steps=200),
        "ensemble": _best(64, 0.001),
        "single": _best(128, 0.001),
        "data_parallel": _best(64, 0.001),
        "local_sgd": _best(64, 0.001, local_steps=20),
        "diloco": _best(64, 0.001, local_steps=20),
    },
    8: {
        "ist": _best(64, 0.005, local_steps=200),
        "ensemble": _best(64, 0.003),
        "single": _best(128, 0.001),
        "data_parallel": _best(64, 0.005),
        "local_sgd": _best(64, 0.001, local_steps=20),
        "diloco": _best(64, 0.002, local_steps=20),
    },
}


def config_of(num_subnets):
    """The configuration for 2, 4 or 8 subnetworks."""
    config = fashion_mnist.get_config()
    config.num_subnets, config.epochs = num_subnets, PASSES[num_subnets]
    for method, values in TUNED[num_subnets].items():
        config.per_method[method].update(values)
    for method in ("ist", "ensemble"):
        config.per_method[method].epochs = 10.0
    return config


def get_config():
    return config_of(4)
