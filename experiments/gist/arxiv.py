"""GIST on OGBN-Arxiv (Wolfe et al., 2023, Table 1): a GCN of three layers with hidden 256, full batch, zeta = 100.

    python -m ist_jax.cli.commands.sweep --config=experiments/gist/arxiv.py --config.data.dir=DIR --workdir=runs/arxiv \
        --grid=num_subnets=2,4,8 --grid=seed=0,1,2,3,4

With --config.method=single, one GCN.
DIR is the folder arxiv that the ogb package downloads, with raw/ and split/. Not run here: the data are not at hand. In the
paper 70.85 for one GCN, and 70.10, 68.69, 65.81 for 2, 4, 8 sub-GCNs. The paper does not say its learning rate or its epochs.
"""

import ml_collections

from ist_jax.cli.config import defaults


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.data.name = "ogbn_arxiv"
    config.model.name = "gcn"
    config.model.hidden = (256, 256)
    config.model.norm = "layer"
    config.model.bias = True
    config.model.dropout = 0.5
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "step"
    config.batch_size = 0
    config.epochs = 1600.0  # of all sub-GCNs together: two synchronisations for 8 of them
    config.local_steps = 100
    config.eval_every = 1
    config.checkpoint_every = 0
    return config
