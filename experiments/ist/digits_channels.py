"""IST on handwritten digits as images: a plain convolutional network.

    python -m ist_jax.cli.commands.run --config=experiments/ist/digits_channels.py --workdir=runs/digits_channels

Dealt are the channels of every convolution and the neurons of the classifier. The other
methods: --config.method=local_sgd, ensemble or single. README.md beside this file has the table.
"""

from experiments.resist import digits
from ist_jax.cli.config import defaults


def get_config():
    config = digits.get_config()
    config.model.name = "vgg"
    config.model.stage_sizes, config.model.width = (
        defaults().model.stage_sizes,
        defaults().model.width,
    )  # of ResNets
    config.model.channels = (16, 0, 32, 0, 32)
    config.model.hidden = (64,)
    config.decomposition = "channels"
    return config
