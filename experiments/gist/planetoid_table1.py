"""placeholder"""

import ml_collections

from experiments.config import defaults


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.data.name = "planetoid"
    config.data.dataset = "cora"
    config.model.name = "gcn"
    config.model.hidden = (256, 256)
    config.model.norm = "none"
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
