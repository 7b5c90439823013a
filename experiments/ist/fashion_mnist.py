"""IST on Fashion-MNIST: an MLP with two hidden layers of 1024, 4 workers, against its baselines.

    python -m ist_jax.cli.commands.run --config=experiments/ist/fashion_mnist.py --config.data.dir=DIR --workdir=runs/fashion_mnist

DIR holds the four idx files. Expect a test accuracy of 89.8 % after 22 s of training on 2 CPU cores. The other methods:
--config.method=data_parallel, local_sgd, diloco, ensemble or single (data parallel's best form on one device: one batch of
4 x 128). README.md beside this file has the table, and says what was tuned and over which grid.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "idx"
    config.model.hidden = (1024, 1024)
    config.num_subnets = 4
    config.batch_size = 128
    config.epochs = 40.0
    config.local_steps = 100  # of data_parallel and single, which synchronise at every step, a round is bookkeeping only
    config.eval_every = 1
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "cosine"
    config.per_method.ist = {
        "local_steps": 500,
        "opt_state": "carry",
        "optimizer": {"learning_rate": 0.003},
    }
    config.per_method.local_sgd = {"local_steps": 200, "opt_state": "carry"}
    config.per_method.diloco = {
        "local_steps": 200,
        "outer": {"learning_rate": 0.7, "momentum": 0.9},
    }
    config.per_method.ensemble = {"optimizer": {"learning_rate": 0.003}}
    config.per_method.single = {"batch_size": 512}
    return config
