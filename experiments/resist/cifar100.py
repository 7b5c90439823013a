"""ResIST on CIFAR-100 as in the paper: `cifar10.py` on other data.

    python -m ist_jax.cli.commands.run --config=experiments/resist/cifar100.py --config.data.dir=DIR --workdir=runs/resist_cifar100

DIR is cifar-100-binary, or the folder it lies in. The paper's accuracies are 70.06, 71.30 and 70.26 % for S = 2, 4, 8; this has
not been run here.
"""

from experiments.resist import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.name = "cifar100"
    return config
