"""IST on 600 clips of Google Speech Commands, 10 words, two weight layers, against its baselines.

    ist-jax run --config experiments/ist/speech_clips.py --data.dir DIR --workdir runs/speech_clips

DIR holds a folder per word. This is a first look at real speech, not a reproduction: the paper has
105,829 clips of 35 words. README.md beside this file has the table, and says what was tuned.
"""

import speech_2layer

from ist_jax.cli.config import Config, replace

TUNED = {
    "ist": dict(optimizer=dict(learning_rate=0.03)),
    "ensemble": dict(optimizer=dict(learning_rate=0.03)),
    "local_sgd": dict(optimizer=dict(learning_rate=0.1)),
    "diloco": dict(optimizer=dict(learning_rate=0.1)),
    "data_parallel": dict(optimizer=dict(learning_rate=0.1)),
    "single": dict(optimizer=dict(learning_rate=1.0), batch_size=64),
}


def get_config(method="ist") -> Config:
    config = replace(
        speech_2layer.get_config(),
        method=method,
        data=dict(dataset="resplit"),  # the clips are all from the published split's test speakers
        num_subnets=4,
        local_steps=5,
        batch_size=16,
        epochs=10.0,
        eval_every=4,
    )
    return replace(config, **TUNED.get(method, TUNED["diloco"]))
