"""IST on Google Speech Commands, three weight layers, with the paper's settings.

    ist-jax run --config experiments/ist/speech_3layer.py --data.dir DIR --workdir runs/speech3

DIR holds the data set's native layout, a folder per word. The paper (Yuan et al., PVLDB 2022):
83.27 % (data parallel 79.50, local SGD 79.92) on all 35 words of version 0.02, whose 105,829
clips are not at hand here; README.md beside this file has what we measured on a few of them.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="speech_commands"),
        # 128 x 32 features - 8192 - 8192 - words, bias-free, BatchNorm on the logits too
        model=ModelConfig(hidden=(8192, 8192)),
        num_subnets=8,
        local_steps=60,
        batch_size=128,
        epochs=100.0,
        optimizer=OptimizerConfig(learning_rate=0.01),  # plain SGD, constant
    )
