"""GIST on Reddit (Wolfe et al., 2023, Table 2): GraphSAGE, hidden 256, batches of clusters, L = 2.

    ist-jax sweep --config experiments/gist/reddit.py --data.dir DIR --workdir runs/reddit \
        --grid method=ist,local_sgd,ensemble --grid num_subnets=2,4,8

--method single trains one network. DIR holds reddit_data.npz and reddit_graph.npz. The data were
not available, so this has not been run. As in the authors' scripts, there are 1,500 clusters, 20 of
them in a batch (the paper's text says 15,000 and 10), and L counts hidden layers: --model.hidden
256 256 256 is L = 3. --model.name gat --model.hidden 64 64 is a GAT with four heads.
--data.clusters 1 --data.layer-nodes 512 --batch-size 512 draws nodes layer by layer instead (Table
4). METIS needs pymetis (pip install ist_jax[metis]). The paper has 96.09 for one GraphSAGE, and
96.40, 96.16 and 95.46 for 2, 4 and 8 (F1, L = 2).
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="reddit", clusters=1500),
        model=ModelConfig(name="sage", hidden=(256, 256), norm="layer", bias=True, dropout=0.2),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
        batch_size=20,
        epochs=80.0,  # of all sub-GCNs together
        local_steps=500,
        eval_every=1,
        eval_batch_size=1500,  # the full graph
    )
