"""IST's VGG12 on CIFAR-10: channels of every convolution and neurons of the classifier dealt to 4 workers.

    python -m ist_jax.cli.commands.run --config=experiments/ist/cifar10_vgg12.py --config.data.dir=DIR --workdir=runs/vgg12

DIR is cifar-10-batches-bin, or the folder it lies in. The paper trains its VGG12 on all of ImageNet; which layers it has is not
known (here nine convolutions, pooled before a classifier of three dense layers), nor its rate. This has not been run here.
"""

from experiments.ist import cifar10_resnet18
from ist_jax.cli.config import defaults


def get_config():
    config = cifar10_resnet18.get_config()
    config.model.name = "vgg"
    config.model.stage_sizes, config.model.block = (
        defaults().model.stage_sizes,
        defaults().model.block,
    )  # of ResNets
    config.model.hidden = (512, 512)
    config.decomposition = "channels"
    return config
