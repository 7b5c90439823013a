"""ResIST on handwritten digits: a pre-activation ResNet of 1, 1 and 9 blocks (8, 16, 32 channels), minutes on a CPU.

    python -m ist_jax.cli.commands.run --config=experiments/resist/digits.py --workdir=runs/resist_digits

Expect a test accuracy of 98 % after some 13 s of training on 2 CPU cores, and a minute of compilation before. The other
methods: --config.method=local_sgd, ensemble (of shallow networks) or single. README.md beside this file has the tables.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "digits"
    config.data.dataset = "images"
    config.data.augment = "crop"
    config.data.crop_padding = 1
    config.model.name = "resnet"
    config.model.stage_sizes = (1, 1, 9)
    config.model.width = 8
    config.num_subnets = 2
    config.batch_size = 32
    config.local_steps = 10
    config.epochs = 20.0
    config.eval_every = 6
    config.time_syncs = False  # saves compiling a program for it
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0005
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.1
    config.per_method.single = {"optimizer": {"learning_rate": 0.03}}
    config.per_method.ensemble = {"optimizer": {"learning_rate": 0.03}}
    return config
