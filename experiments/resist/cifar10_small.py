"""ResIST on 10,000 images of CIFAR-10: a pre-activation ResNet of 2, 2, 9 and 2 blocks, 16 channels wide.

    python -m ist_jax.cli.commands.run --config=experiments/resist/cifar10_small.py --config.data.dir=FILE --workdir=runs/cifar10_small

FILE is an .npz of x_train (10,000 x 32 x 32 x 3), y_train, x_test, y_test. About 0.35 GFLOP an image and step: hours on two CPU
cores, which have not been spent here, so that no accuracy is known; `cifar10_halved.py` is what has been run instead.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "npz"
    config.data.augment = "crop_flip"
    config.model.name = "resnet"
    config.model.stage_sizes = (2, 2, 9, 2)
    config.model.width = 16
    config.num_subnets = 2
    config.batch_size = 64
    config.epochs = 30.0
    config.local_steps = 25
    config.eval_every = 10
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0005
    config.optimizer.schedule = "cosine"
    return config
