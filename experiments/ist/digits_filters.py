"""IST on handwritten digits as images: a residual network of two stages of two blocks.

    python -m ist_jax.cli.commands.run --config=experiments/ist/digits_filters.py --workdir=runs/digits_filters

Dealt are the filters inside every further block (LoFT's rule); each stage's first block is shared. The other methods:
--config.method=local_sgd, ensemble or single. README.md beside this file has the table.
"""

from experiments.resist import digits


def get_config():
    config = digits.get_config()
    config.model.name = "resnet"
    config.model.stage_sizes = (2, 2)
    config.model.width = 16
    config.model.block = "post"
    config.decomposition = "filters"
    return config
