"""Time to accuracy over a slow link, simulated, on the speech clips: IST against its baselines.

    python -m experiments.run --config=experiments/ist/slow_link_speech.py --config.data.dir=DIR --workdir=runs/slow_link_speech

The network, data and tuned rates of speech_clips.py; synchronisations over 1 Gbit/s, an evaluation every round.
communication/README.md has the table.
"""

from experiments.ist import speech_clips


def get_config():
    config = speech_clips.get_config()
    config.link.bandwidth = "1Gbps"
    config.link.latency = "1ms"
    config.eval_every = 1
    config.checkpoint_every = 0
    return config
