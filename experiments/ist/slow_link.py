"""Time to accuracy over a slow link, simulated: networks of 4,096 neurons on Fashion-MNIST, IST against its baselines.

    python -m ist_jax.cli.commands.run --config=experiments/ist/slow_link.py --config.data.dir=DIR --workdir=runs/slow_link

DIR holds the four idx files. Records have `simulated_seconds`: training as if every worker had this machine to itself, and
every synchronisation over 1 Gbit/s. A second hidden layer: --config.model.hidden="(4096,4096)". communication/README.md
has the table, and says what was tuned.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "idx"
    config.model.hidden = (4096,)
    config.link.bandwidth = "1Gbps"
    config.link.latency = "1ms"
    config.num_subnets = 4
    config.batch_size = 128
    config.local_steps = 20
    config.epochs = 3.0
    config.eval_every = 1
    config.checkpoint_every = 0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.per_method.ist = {"local_steps": 60, "epochs": 4.0}
    config.per_method.local_sgd = {"local_steps": 40}
    config.per_method.data_parallel = {"optimizer": {"learning_rate": 0.03}}
    return config
