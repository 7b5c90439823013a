"""A table of your own: an .npz file with x_train [N, D], y_train, x_test and y_test.

Targets decide the task: integers [N] are classes, floats [N] or [N, K] are numbers to predict, and
a table [N, labels] of 0 and 1 is several labels per example.

    ist-jax run --config experiments/demo/table.py --data.dir FILE.npz --workdir runs/table

Features of tables have different scales, so each is standardised for itself.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="npz", standardise="per_feature"),
        model=ModelConfig(hidden=(128, 128)),
        num_subnets=4,
        local_steps=10,
        batch_size=16,
        epochs=200.0,
        eval_every=10,
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="cosine"),
    )
