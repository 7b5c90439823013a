"""IST's VGG12 on CIFAR-10: channels of every convolution and neurons of the classifier, 4 workers.

    ist-jax run --config experiments/ist/cifar10_vgg12.py --data.dir DIR --workdir runs/vgg12

DIR is cifar-10-batches-bin, or the folder that holds it. The paper trains its VGG12 on all of
ImageNet; which layers it has is not known (here nine convolutions, pooled before a classifier of
three dense layers), nor its learning rate. This has not been run here.
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
