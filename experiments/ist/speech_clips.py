"""IST on 600 clips of Google Speech Commands, 10 words, with the paper's network of two weight layers, against its baselines.

    python -m ist_jax.cli.commands.run --config=experiments/ist/speech_clips.py --config.data.dir=DIR --workdir=runs/speech_clips

DIR holds a folder per word. A first look at real speech and no reproduction: the paper has 105,829 clips of 35 words.
README.md beside this file has the table, and says what was tuned.
"""

from experiments.ist import speech_2layer


def get_config():
    config = speech_2layer.get_config()
    config.data.dataset = (
        "resplit"  # the clips at hand are all of the published split's test speakers
    )
    config.num_subnets = 4
    config.local_steps = 5
    config.batch_size = 16
    config.epochs = 10.0
    config.eval_every = 4
    config.per_method.ist = {"optimizer": {"learning_rate": 0.03}}
    config.per_method.ensemble = {"optimizer": {"learning_rate": 0.03}}
    config.per_method.local_sgd = {"optimizer": {"learning_rate": 0.1}}
    config.per_method.diloco = {"optimizer": {"learning_rate": 0.1}}
    config.per_method.data_parallel = {"optimizer": {"learning_rate": 0.1}}
    config.per_method.single = {"optimizer": {"learning_rate": 1.0}, "batch_size": 64}
    return config
