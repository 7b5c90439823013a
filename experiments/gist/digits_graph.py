"""GIST on the nearest-neighbour graph of scikit-learn's digits: 4 sub-GCNs; no download.

    ist-jax run --config experiments/gist/digits_graph.py --workdir runs/digits_graph

The GCN has three layers with hidden 256, and trains on 20 nodes of every class in full batches.
Expect a test accuracy of 0.97 to 0.98 after some seconds (README.md beside this file).
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="digits_graph"),
        model=ModelConfig(name="gcn", hidden=(256, 256), norm="layer", bias=True, dropout=0.5),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=0.01, weight_decay=5e-4, schedule="step"
        ),
        batch_size=0,  # the full graph
        epochs=1000.0,  # of all sub-GCNs together
        local_steps=20,
        eval_every=1,
        checkpoint_every=0,
    )
