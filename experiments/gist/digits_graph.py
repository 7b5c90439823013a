"""GIST on the nearest-neighbour graph of scikit-learn's digits: a GCN of three layers, 4 sub-GCNs; no download.

python -m experiments.run --config=experiments/gist/digits_graph.py --workdir=runs/digits_graph
"""

import ml_collections

from experiments.config import defaults


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.data.name = "digits_graph"
    config.model.name = "gcn"
    config.model.hidden = (64, 64)
    config.model.norm = "layer"
    config.model.bias = True
    config.model.dropout = 0.5
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "step"
    config.batch_size = 0
    config.epochs = 400.0
    config.local_steps = 20
    config.eval_every = 1
    config.checkpoint_every = 0
    return config
