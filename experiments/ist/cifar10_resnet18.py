"""IST's ResNet18 on CIFAR-10: the filters of blocks are partitioned over 4 workers.

    ist-jax run --config experiments/ist/cifar10_resnet18.py --data.dir DIR --workdir runs/resnet18

DIR is cifar-10-batches-bin or the folder above it. Filters are partitioned by LoFT's rule, since
the IST paper does not give its rule. Local steps are the paper's (10, 20 or 40). The paper gives
neither its learning rate nor its passes, so usual ones are used. Its accuracy is 91.02 % (data
parallel 91.28 %, local SGD 90.87 %). There was no accelerator, so this has not been run.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="cifar10", augment="crop_flip"),
        model=ModelConfig(name="resnet", stage_sizes=(2, 2, 2, 2), block="post"),
        decomposition="filters",
        num_subnets=4,
        batch_size=128,
        epochs=200.0,
        local_steps=20,
        eval_every=50,
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="step"
        ),
    )
