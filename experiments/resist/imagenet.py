"""ResIST on ImageNet (ILSVRC2012) as in the paper (Dun et al., UAI 2022, section 4): ResNet101, streamed from disk.

    python -m ist_jax.cli.commands.run --config=experiments/resist/imagenet.py --config.data.dir=DIR --workdir=runs/resist_imagenet

DIR is a TFDS data_dir with `imagenet2012` prepared as array_record (`ist_jax.data.tfds.prepare`, from the two archives that
image-net.org gives out). Batch 256 per worker, 90 passes of all workers together, 15 local steps, at least 10 of the 22 blocks,
SGD with momentum 0.9 (reset every round), 0.1 divided by 10 after a third and two thirds; the paper begins with 'a few epochs'
of local SGD: here 4 of 90, and the weight decay, which it does not give, is that of CIFAR. A part of every image, of random
size and place, is resized to 224; the middle of it is evaluated.

Images lie in memory round by round, 15 x 256 of them per worker, 0.76 GB: two rounds on the device, and one being
read. The paper's top-1 accuracies are 71.60 and 70.74 % for S = 2 and 4; this has not been run here, for want of the data and
of an accelerator.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "tfds"
    config.data.dataset = "imagenet2012"
    config.data.image_size = 224
    config.data.augment = "resized_crop_flip"
    config.data.validation_fraction = 0.01
    config.model.name = "resnet"
    config.model.stage_sizes = (3, 4, 23, 3)
    config.model.stem = "large"
    config.model.width = 64
    config.model.dtype = "bfloat16"
    config.num_subnets = 4
    config.batch_size = 256
    config.epochs = 90.0
    config.local_steps = 15
    config.eval_every = 400
    config.eval_batch_size = 512
    config.eval_sample = 512
    config.checkpoint_every = 400
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0005
    config.optimizer.schedule = "thirds"
    config.per_method.ist = {"min_blocks": 10, "warmup_fraction": 4 / 90}
    return config
