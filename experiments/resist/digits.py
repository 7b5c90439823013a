"""ResIST on handwritten digits: a pre-activation ResNet of 1, 1 and 9 blocks, minutes on a CPU.

    ist-jax run --config experiments/resist/digits.py --workdir runs/resist_digits

The stages have 8, 16 and 32 channels. Expect a test accuracy of 98 % after a minute of compilation
and about 13 s of training on 2 CPU cores. The other methods: --method local_sgd, ensemble (of
shallow networks) or single. README.md beside this file has the tables.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig, replace

TUNED = {
    "single": dict(optimizer=dict(learning_rate=0.03)),
    "ensemble": dict(optimizer=dict(learning_rate=0.03)),
}


def get_config(method="ist") -> Config:
    config = Config(
        method=method,
        data=DataConfig(name="digits", dataset="images", augment="crop", crop_padding=1),
        model=ModelConfig(name="resnet", stage_sizes=(1, 1, 9), width=8),
        num_subnets=2,
        batch_size=32,
        local_steps=10,
        epochs=20.0,
        eval_every=6,
        time_syncs=False,  # saves compiling a program for it
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="cosine", warmup=0.1
        ),
    )
    return replace(config, **TUNED.get(method, {}))
