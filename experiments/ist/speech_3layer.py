"""IST on Google Speech Commands, a network of three weight layers, with the paper's settings (Yuan et al., PVLDB 2022).

    python -m ist_jax.cli.commands.run --config=experiments/ist/speech_3layer.py --config.data.dir=DIR --workdir=runs/speech_3layer

DIR holds the data set's native layout, a folder per word. Paper: 83.27 % (data parallel 79.50, local SGD 79.92) on all 35 words
of version 0.02, whose 105,829 clips are not at hand here; README.md beside this file has what we measured on a few of them.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "speech_commands"
    config.model.hidden = (
        8192,
        8192,
    )  # 128 x 32 features - 8192 - 8192 - words, bias-free, BatchNorm on the logits too
    config.num_subnets = 8
    config.local_steps = 60
    config.batch_size = 128
    config.epochs = 100.0
    config.optimizer.learning_rate = 0.01  # plain SGD, constant
    return config
