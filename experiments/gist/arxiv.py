"""GIST on OGBN-Arxiv (Wolfe et al., 2023, Table 1): a full-batch GCN, zeta = 100.

    ist-jax sweep --config experiments/gist/arxiv.py --data.dir DIR --workdir runs/arxiv \
        --grid num_subnets=2,4,8 --grid seed=0,1,2,3,4

The GCN has three layers with hidden 256. --method single trains one GCN. DIR is the folder arxiv
that the ogb package downloads, with raw/ and split/. The data were not available, so this has not
been run. The paper has 70.85 for one GCN, and 70.10, 68.69 and 65.81 for 2, 4 and 8 sub-GCNs. It
gives neither its learning rate nor its epochs.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="ogbn_arxiv"),
        model=ModelConfig(name="gcn", hidden=(256, 256), norm="layer", bias=True, dropout=0.5),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01, schedule="step"),
        batch_size=0,
        epochs=1600.0,  # of all sub-GCNs together: with 8 of them, two synchronisations
        local_steps=100,
        eval_every=1,
        checkpoint_every=0,
    )
