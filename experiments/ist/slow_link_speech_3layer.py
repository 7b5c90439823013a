"""slow_link_speech.py with three weight layers, hidden (4096, 4096).

    python -m ist_jax.cli.commands.run --config=experiments/ist/slow_link_speech_3layer.py --config.data.dir=DIR --workdir=runs/speech_3

communication/README.md has the table.
"""

from experiments.ist import slow_link_speech


def get_config():
    config = slow_link_speech.get_config()
    config.model.hidden = (4096, 4096)
    config.per_method.ist.update(
        {"local_steps": 10, "epochs": 30.0}
    )  # with 4 and 8 workers in less time than the others' 10
    config.per_method.data_parallel.optimizer.learning_rate = 0.1
    return config
