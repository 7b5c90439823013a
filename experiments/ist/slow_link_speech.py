"""Time to accuracy over a slow link, simulated: 600 clips of Google Speech Commands.

    ist-jax run --config experiments/ist/slow_link_speech.py --data.dir DIR --workdir runs/slow

DIR holds a folder per word. This is the paper's network with two weight layers;
slow_link_speech_3layer.py has three. Every method has the values with the best mean over 2, 4 and 8
workers on validation data. communication/README.md has the table, tuning/README.md the grids.
"""

import speech_clips

from ist_jax.cli.config import Config, replace

TUNED = {
    "ist": dict(local_steps=20),
    "local_sgd": dict(local_steps=20),
    "data_parallel": dict(optimizer=dict(learning_rate=0.03)),
}


def get_config(method="ist") -> Config:
    config = replace(
        speech_clips.get_config(method),
        link=dict(bandwidth="1Gbps", latency="1ms"),
        eval_every=1,
    )
    return replace(config, **TUNED.get(method, {}))
