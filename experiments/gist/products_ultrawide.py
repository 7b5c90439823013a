"""Ultra-wide GraphSAGE on ogbn-products (Wolfe et al., 2023, Table 3): hidden 32,768, 8 sub-GCNs.

    ist-jax run --config experiments/gist/products_ultrawide.py --data.dir DIR --workdir runs/wide
    ist-jax memory --config experiments/gist/products_ultrawide.py --graph 2500000 61800000 100 47

The data set stands in for the paper's Amazon2M. DIR is the folder products that the ogb package
downloads. This is for a machine with 8 accelerators: no device holds the full model of 2.2 billion
parameters, and evaluation is over parts of the graph (the paper's appendix A.5). Neither the data
nor such a machine were available, so this has not been run; the second command compiles it from
shapes, and README.md beside this file has the memory. The paper has 89.46 (F1, L = 2 hidden layers,
8 sub-GCNs); --model.hidden 4096 4096 and so on are the other columns of its table.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        num_subnets=8,
        data=DataConfig(name="ogbn_products", clusters=15000),
        model=ModelConfig(name="sage", hidden=(32768, 32768), norm="layer", bias=True, dropout=0.2),
        optimizer=OptimizerConfig(name="adam", learning_rate=5e-3),
        batch_size=20,  # the default of the authors' script; the paper's text says 10
        epochs=400.0,  # of all sub-GCNs together
        local_steps=5000,
        eval_every=1,
        eval_batch_size=3,  # 5,000 parts
        time_syncs=False,  # there may be no room for the copy of the state that this takes
    )
