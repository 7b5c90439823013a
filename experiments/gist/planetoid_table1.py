"""Table 1 of GIST (Wolfe et al., 2023) on Cora, CiteSeer and PubMed: a GCN of three layers with hidden 256, full batch.

    python -m ist_jax.cli.commands.sweep --config=experiments/gist/planetoid_table1.py --config.data.dir=DIR --workdir=runs/cora \
        --grid=method=ist --grid=num_subnets=2,4,8 --grid=seed=0,1,2,3,4

With --config.method=single, one GCN.
DIR holds the eight files ind.cora.*; --config.data.dataset=citeseer reads those of CiteSeer. 400 epochs, split over the
sub-GCNs; zeta = 20 local epochs; Adam, reset at every synchronisation, its rate divided by 10 at 50 % and 75 %; dropout 0.5,
weight decay 5e-4, as in the authors' scripts. d1 and d2 are dealt; d0 with --config.model.split_input=True, not d2 with
--config.model.split_output=False. README.md beside this file has what to expect and what it costs.
"""

import ml_collections

from ist_jax.cli.config import defaults


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.data.name = "planetoid"
    config.data.dataset = "cora"
    config.model.name = "gcn"
    config.model.hidden = (256, 256)
    config.model.norm = "layer"  # per node; the authors' small-scale release normalises the whole matrix (norm=matrix)
    config.model.bias = True
    config.model.dropout = 0.5
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "step"
    config.batch_size = 0  # the whole graph
    config.epochs = 400.0  # of all sub-GCNs together
    config.local_steps = 20
    config.eval_every = 1
    config.checkpoint_every = 0
    return config
