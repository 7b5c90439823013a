"""IST on Fashion-MNIST with two hidden layers of 2048 in 3 passes, for 1, 2, 4 and 8 subnetworks, against its baselines.

    python -m ist_jax.cli.commands.run --config=experiments/ist/fashion_mnist_wide.py --config.data.dir=DIR --workdir=runs/wide

Every method has its best of four to six values on validation data, their mean over 2, 4 and 8 workers; `single`, which has
one worker and batch 128, is S = 1. README.md beside this file has the table, tuning/README.md the grids. Expect a test accuracy
of 87 % after some seconds of training on 2 CPU cores.
"""

from experiments.ist import fashion_mnist_10_passes


def get_config():
    config = fashion_mnist_10_passes.get_config()
    config.model.hidden = (2048, 2048)
    config.epochs = 3.0
    config.per_method.ist.update({"local_steps": 100, "optimizer": {"learning_rate": 0.002}})
    config.per_method.ensemble.optimizer.learning_rate = 0.001
    config.per_method.single = {"batch_size": 128, "optimizer": {"learning_rate": 0.0005}}
    config.per_method.data_parallel.optimizer.learning_rate = 0.001
    config.per_method.local_sgd.update({"local_steps": 20, "optimizer": {"learning_rate": 0.0005}})
    config.per_method.diloco.local_steps = 20
    return config
