"""The demo: scikit-learn's handwritten digits, an MLP with two hidden layers of 256, 4 workers.

    ist-jax run --config experiments/demo/digits.py --workdir runs/digits

Expect a test accuracy of 96.9 % (mean of three seeds) after half a second of training. `make demo`
trains four methods with three seeds, for about 13 s in all, and prints their table, which is also
in README.md beside this file.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="digits", validation_fraction=0.2),
        model=ModelConfig(hidden=(256, 256)),
        num_subnets=4,
        local_steps=10,
        batch_size=32,
        epochs=60.0,
        eval_every=10,
        eval_subnets=True,
        optimizer=OptimizerConfig(learning_rate=0.3, schedule="cosine"),
    )
