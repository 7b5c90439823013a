"""Table 1 of GIST (Wolfe et al., 2023) on Cora, CiteSeer and PubMed: a full-batch GCN.

    ist-jax sweep --config experiments/gist/planetoid_table1.py --data.dir DIR --workdir runs/cora \
        --grid method=ist --grid num_subnets=2,4,8 --grid seed=0,1,2,3,4

The GCN has three layers with hidden 256. --method single trains one GCN. DIR holds the eight files
ind.cora.*; --data.dataset citeseer reads those of CiteSeer. As in the authors' scripts: 400 epochs,
divided between the sub-GCNs; zeta = 20 local epochs; Adam, reset at every synchronisation, its rate
divided by 10 at 50 % and 75 %; dropout 0.5; weight decay 5e-4. d1 and d2 are partitioned.
--model.split-input True also partitions d0; --model.split-output False leaves d2 out. README.md
beside this file says what to expect and what it costs.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="planetoid", dataset="cora"),
        # norm per node; the authors' small-scale release normalises the full matrix (norm=matrix)
        model=ModelConfig(name="gcn", hidden=(256, 256), norm="layer", bias=True, dropout=0.5),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=0.01, weight_decay=5e-4, schedule="step"
        ),
        batch_size=0,  # the full graph
        epochs=400.0,  # of all sub-GCNs together
        local_steps=20,
        eval_every=1,
        checkpoint_every=0,
    )
