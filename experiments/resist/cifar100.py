"""ResIST on CIFAR-100 as in the paper: `cifar10.py` on other data.

    ist-jax run --config experiments/resist/cifar100.py --data.dir DIR --workdir runs/cifar100

DIR is cifar-100-binary or the folder above it. The paper's accuracies are 70.06, 71.30 and 70.26 %
for S = 2, 4 and 8. This has not been run.
"""

import cifar10

from ist_jax.cli.config import Config, replace


def get_config() -> Config:
    return replace(cifar10.get_config(), data=dict(name="cifar100"))
