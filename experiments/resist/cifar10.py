"""ResIST on CIFAR-10 as in the paper (Dun et al., UAI 2022, section 4, and its release).

    ist-jax run --config experiments/resist/cifar10.py --data.dir DIR --workdir runs/resist_cifar10

DIR is cifar-10-batches-bin or the folder above it. The network is a ResNet101 of basic blocks, with
S = 4, batch 128 per worker, 160 passes of all workers together and 50 local steps. SGD has momentum
0.9 (reset every round), weight decay 5e-4, and learning rate 0.03, divided by 10 at half and at
three quarters. S = 2 is --num-subnets 2 --epochs 80. S = 8 has at least five blocks, --num-subnets
8 --min-blocks 5, and fewer local steps (the paper does not say how many). --method single trains
the same network with the same budget without ResIST.

The paper's accuracies are 91.95, 92.35 and 91.45 % for S = 2, 4 and 8. There was no accelerator, so
this has not been run; on one, --model.dtype bfloat16 is faster.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="cifar10", augment="crop_flip"),
        model=ModelConfig(name="resnet", stage_sizes=(3, 4, 23, 3), width=64),
        num_subnets=4,
        batch_size=128,
        epochs=160.0,
        local_steps=50,
        eval_every=10,
        optimizer=OptimizerConfig(
            learning_rate=0.03, momentum=0.9, weight_decay=0.0005, schedule="step"
        ),
    )
