"""Time to accuracy over a slow link, simulated: 600 clips of Google Speech Commands, the paper's network of two weight layers.

    python -m ist_jax.cli.commands.run --config=experiments/ist/slow_link_speech.py --config.data.dir=DIR --workdir=runs/slow_link_speech

DIR holds a folder per word. Three weight layers: slow_link_speech_3layer.py. Every method has its best values on validation
data over 2, 4 and 8 workers; communication/README.md has the table, tuning/README.md the grids.
"""

from experiments.ist import speech_clips


def get_config():
    config = speech_clips.get_config()
    config.link.bandwidth = "1Gbps"
    config.link.latency = "1ms"
    config.eval_every = 1
    config.per_method.ist.local_steps = 20
    config.per_method.local_sgd.local_steps = 20
    config.per_method.data_parallel.optimizer.learning_rate = 0.03
    return config
