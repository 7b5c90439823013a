"""ResIST on 10,000 images of CIFAR-10, halved to 16 x 16: a pre-activation ResNet of 1, 1 and 9 blocks (8, 16, 32 channels).

    python -m ist_jax.cli.commands.run --config=experiments/resist/cifar10_halved.py --config.data.dir=FILE --workdir=runs/cifar10_halved

FILE is an .npz of x_train (10,000 x 16 x 16 x 3), y_train, x_test, y_test; README.md beside this file says how it is made of
the 32 x 32 images, and has the tables, and what S = 2 was given. Expect 44 % with S = 4, 4 of 8 blocks in each sub-ResNet,
after a minute or two of training on a CPU core: `cifar10_small.py` for those who have not hours.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "npz"
    config.data.augment = "crop_flip"
    config.data.crop_padding = 2
    config.model.name = "resnet"
    config.model.stage_sizes = (1, 1, 9)
    config.model.width = 8
    config.num_subnets = 4
    config.batch_size = 32
    config.local_steps = 10
    config.epochs = 8.96  # 630 local steps of 4 workers: whole rounds
    config.eval_every = 21
    config.checkpoint_every = 42
    config.placement = "looped"
    config.time_syncs = False  # saves compiling a program for it
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0005
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.1
    config.per_method.ist = {
        "min_blocks": 4,
        "warmup_fraction": 0.2,
        "optimizer": {"learning_rate": 0.2},
    }
    config.per_method.single = {"optimizer": {"learning_rate": 0.03}}
    config.per_method.ensemble = {"optimizer": {"learning_rate": 0.03}}
    return config
