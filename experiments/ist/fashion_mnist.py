"""IST on Fashion-MNIST: an MLP with two hidden layers of 1024, 4 workers.

python -m experiments.run --config=experiments/ist/fashion_mnist.py --config.data.dir=DIR --workdir=runs/fashion_mnist
"""

from experiments.config import defaults


def get_config():
    config = defaults()
    config.data.name = "idx"
    config.model.hidden = (1024, 1024)
    config.num_subnets = 4
    config.local_steps = 20
    config.batch_size = 128
    config.epochs = 20.0
    config.eval_every = 21
    config.optimizer.learning_rate = 0.3
    config.optimizer.schedule = "cosine"
    return config
