"""Ultra-wide GraphSAGE on ogbn-products, which stands for Amazon2M (Wolfe et al., 2023, Table 3): hidden 32,768, 8 sub-GCNs.

    python -m ist_jax.cli.commands.run --config=experiments/gist/products_ultrawide.py --config.data.dir=DIR --workdir=runs/products
    python -m ist_jax.cli.commands.memory --config=experiments/gist/products_ultrawide.py --graph=2500000,61800000,100,47

DIR is the folder products that the ogb package downloads. For a machine of 8 accelerators: no device holds the whole model of
2.2 billion parameters, and evaluation goes over parts of the graph (the paper's appendix A.5). Not run here: neither the data
nor the machine are at hand; the second command compiles it from shapes, and README.md beside this file says what it holds. In
the paper 89.46 (F1, L = 2 hidden layers, 8 sub-GCNs); --config.model.hidden="(4096, 4096)" and so on are its other columns.
"""

import ml_collections

from ist_jax.cli.config import defaults


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.num_subnets = 8
    config.data.name = "ogbn_products"
    config.data.clusters = 15000
    config.model.name = "sage"
    config.model.hidden = (32768, 32768)
    config.model.norm = "layer"
    config.model.bias = True
    config.model.dropout = 0.2
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-3
    config.batch_size = 20  # the authors' script has its default; the paper's text says 10
    config.epochs = 400.0  # of all sub-GCNs together
    config.local_steps = 5000
    config.eval_every = 1
    config.eval_batch_size = 3  # 5,000 parts
    config.time_syncs = False  # on a copy of the state, for which there may be no room
    return config
