"""The demo: scikit-learn's handwritten digits, an MLP with two hidden layers of 256, 4 workers.

    python -m ist_jax.cli.commands.run --config=experiments/demo/digits.py --workdir=runs/digits

Expect a test accuracy of 96.9 % (mean of three seeds) after half a second of training. `make demo` runs four methods with three
seeds, about 13 s of training in all, and prints their table, which README.md beside this file holds.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "digits"
    config.data.validation_fraction = 0.2
    config.model.hidden = (256, 256)
    config.num_subnets = 4
    config.local_steps = 10
    config.batch_size = 32
    config.epochs = 60.0
    config.eval_every = 10
    config.eval_subnets = True
    config.optimizer.learning_rate = 0.3
    config.optimizer.schedule = "cosine"
    return config
