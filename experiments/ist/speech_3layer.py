"""IST on Google Speech Commands, three weight layers, with the paper's settings.

    ist-jax run --config experiments/ist/speech_3layer.py --data.dir DIR --workdir runs/speech3

DIR has the layout of the data set, a folder per word. The paper (Yuan et al., PVLDB 2022) has
83.27 % (data parallel 79.50, local SGD 79.92) on all 35 words of version 0.02. Its 105,829 clips
were not available; README.md beside this file has results on 600 of them.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="speech_commands"),
        # widths: 128 x 32 features, 8192, 8192, words; no biases; BatchNorm also of the logits
        model=ModelConfig(hidden=(8192, 8192)),
        num_subnets=8,
        local_steps=60,
        batch_size=128,
        epochs=100.0,
        optimizer=OptimizerConfig(learning_rate=0.01),  # plain SGD, constant
    )
