"""ResIST on 10,000 images of CIFAR-10: a pre-activation ResNet of 2, 2, 9 and 2 blocks.

    ist-jax run --config experiments/resist/cifar10_small.py --data.dir FILE --workdir runs/small

The network is 16 channels wide. FILE is an .npz of x_train (10,000 x 32 x 32 x 3), y_train, x_test
and y_test. An image and step take about 0.35 GFLOP, so a run takes hours on two CPU cores. It has
not been run, and no accuracy is known; `cifar10_halved.py` has been run instead.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="npz", augment="crop_flip"),
        model=ModelConfig(name="resnet", stage_sizes=(2, 2, 9, 2), width=16),
        num_subnets=2,
        batch_size=64,
        epochs=30.0,
        local_steps=25,
        eval_every=10,
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="cosine"
        ),
    )
