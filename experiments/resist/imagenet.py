"""ResIST on ImageNet (ILSVRC2012) as in the paper (Dun et al., UAI 2022, section 4).

    ist-jax run --config experiments/resist/imagenet.py --data.dir DIR --workdir runs/imagenet

DIR is a TFDS data_dir with `imagenet2012` prepared as array_record (by `ist_jax.data.tfds.prepare`,
from the two archives that image-net.org distributes). The network is a ResNet101, with batch 256
per worker, 90 passes of all workers together, 15 local steps, and at least 10 of the 22 blocks. SGD
has momentum 0.9 (reset every round) and learning rate 0.1, divided by 10 after one third and two
thirds. The paper begins with 'a few epochs' of local SGD, here 4 of 90. It does not give its weight
decay, here that of CIFAR. Training resizes a random part of every image to 224; evaluation uses the
centre.

Images are streamed from disk round by round, 15 x 256 of them per worker, 0.76 GB: two rounds are
on the device while another one is read. The paper's top-1 accuracies are 71.60 and 70.74 % for
S = 2 and 4. Neither the data nor an accelerator were available, so this has not been run.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig, replace

DATA = DataConfig(
    name="tfds",
    dataset="imagenet2012",
    image_size=224,
    augment="resized_crop_flip",
    validation_fraction=0.01,
)
MODEL = ModelConfig(
    name="resnet", stage_sizes=(3, 4, 23, 3), stem="large", width=64, dtype="bfloat16"
)


def get_config(method="ist") -> Config:
    config = Config(
        method=method,
        data=DATA,
        model=MODEL,
        num_subnets=4,
        batch_size=256,
        epochs=90.0,
        local_steps=15,
        eval_every=400,
        eval_batch_size=512,
        calibration_examples=512,
        checkpoint_every=400,
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="thirds"
        ),
    )
    resist = dict(min_blocks=10, warmup_fraction=4 / 90)
    return replace(config, **resist) if method == "ist" else config
