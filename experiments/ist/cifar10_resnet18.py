"""IST's ResNet18 on CIFAR-10: filters of every further block dealt to 4 workers (LoFT's rule; the IST paper's is not known).

    python -m ist_jax.cli.commands.run --config=experiments/ist/cifar10_resnet18.py --config.data.dir=DIR --workdir=runs/resnet18

DIR is cifar-10-batches-bin, or the folder it lies in. Local steps are the paper's (10, 20 or 40); its learning rate and passes
are not known, and the usual ones stand here. The paper's accuracy is 91.02 % (data parallel 91.28 %, local SGD 90.87 %); this
has not been run here, for want of an accelerator.
"""

from ist_jax.cli.config import defaults


def get_config():
    config = defaults()
    config.data.name = "cifar10"
    config.data.augment = "crop_flip"
    config.model.name = "resnet"
    config.model.stage_sizes = (2, 2, 2, 2)
    config.model.block = "post"
    config.decomposition = "filters"
    config.num_subnets = 4
    config.batch_size = 128
    config.epochs = 200.0
    config.local_steps = 20
    config.eval_every = 50
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0005
    config.optimizer.schedule = "step"
    return config
