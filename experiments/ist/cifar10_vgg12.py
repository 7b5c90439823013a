"""IST's VGG12 on CIFAR-10: channels and neurons are partitioned over 4 workers.

    ist-jax run --config experiments/ist/cifar10_vgg12.py --data.dir DIR --workdir runs/vgg12

DIR is cifar-10-batches-bin or the folder above it. The paper trains its VGG12 on all of ImageNet,
and gives neither its layers nor its learning rate. Here the network has nine convolutions with
poolings between them, and a classifier of three dense layers. This has not been run.
"""

import dataclasses

import cifar10_resnet18

from ist_jax.cli.config import Config, ModelConfig


def get_config() -> Config:
    return dataclasses.replace(
        cifar10_resnet18.get_config(),
        model=ModelConfig(name="vgg", hidden=(512, 512)),
        decomposition="channels",
    )
