"""slow_link_speech.py with three weight layers, hidden (4096, 4096).

    ist-jax run --config experiments/ist/slow_link_speech_3layer.py --data.dir DIR --workdir runs/3

communication/README.md has the table.
"""

import slow_link_speech

from ist_jax.cli.config import Config, replace

TUNED = {
    # with 4 and 8 workers, this takes less time than the others' 10 passes
    "ist": dict(local_steps=10, epochs=30.0),
    "data_parallel": dict(optimizer=dict(learning_rate=0.1)),
}


def get_config(method="ist") -> Config:
    config = replace(slow_link_speech.get_config(method), model=dict(hidden=(4096, 4096)))
    return replace(config, **TUNED.get(method, {}))
