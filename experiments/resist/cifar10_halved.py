"""ResIST on 10,000 images of CIFAR-10, halved to 16 x 16: `cifar10_small.py` in minutes, not hours.

    ist-jax run --config experiments/resist/cifar10_halved.py --data.dir FILE --workdir runs/halved

The network is a pre-activation ResNet of 1, 1 and 9 blocks (8, 16 and 32 channels). FILE is an .npz
of x_train (10,000 x 16 x 16 x 3), y_train, x_test and y_test. README.md beside this file says how
to make it from the 32 x 32 images, and has the tables and the options for S = 2. Expect 44 % with
S = 4, 4 of 8 blocks in each sub-ResNet, after a minute or two of training on a CPU core.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig, replace

TUNED = {
    "ist": dict(min_blocks=4, warmup_fraction=0.2, optimizer=dict(learning_rate=0.2)),
    "single": dict(optimizer=dict(learning_rate=0.03)),
    "ensemble": dict(optimizer=dict(learning_rate=0.03)),
}


def get_config(method="ist") -> Config:
    config = Config(
        method=method,
        data=DataConfig(name="npz", augment="crop_flip", crop_padding=2),
        model=ModelConfig(name="resnet", stage_sizes=(1, 1, 9), width=8),
        num_subnets=4,
        batch_size=32,
        local_steps=10,
        epochs=8.96,  # 630 local steps of 4 workers: full rounds
        eval_every=21,
        checkpoint_every=42,
        placement="looped",
        time_syncs=False,  # saves compiling a program for it
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="cosine", warmup=0.1
        ),
    )
    return replace(config, **TUNED.get(method, {}))
