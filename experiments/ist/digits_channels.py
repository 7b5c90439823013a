"""IST on handwritten digits as images: a plain convolutional network.

    ist-jax run --config experiments/ist/digits_channels.py --workdir runs/digits_channels

The channels of every convolution and the neurons of the classifier are partitioned. The other
methods: --method local_sgd, ensemble or single. README.md beside this file has the table.
"""

import dataclasses

import digits_filters

from ist_jax.cli.config import Config, ModelConfig


def get_config(method="ist") -> Config:
    return dataclasses.replace(
        digits_filters.get_config(method),
        model=ModelConfig(name="vgg", channels=(16, 0, 32, 0, 32), hidden=(64,)),
        decomposition="channels",
    )
