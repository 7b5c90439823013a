"""From a validated config to (phases, task, dataset)."""

import jax.numpy as jnp
import optax

from experiments.config import Config, ConfigError, Optimizer
from ist_jax import data
from ist_jax.algorithms import Algorithm, data_parallel, ensemble, ist
from ist_jax.data import Dataset
from ist_jax.decompositions import DECOMPOSITIONS, Decomposition, undivided
from ist_jax.loop import LoopConfig, Phase, phase_steps
from ist_jax.models import MLP
from ist_jax.placement import make_placement
from ist_jax.tasks import Task, classification


def dataset(config: Config) -> Dataset:
    """The data of the config."""
    d = config.data
    return data.load(
        d.name, d.dir, d.dataset, split=d.split, alpha=d.alpha, validation_fraction=d.validation_fraction, seed=config.seed
    )


def decomposition(config: Config, dataset: Dataset) -> Decomposition:
    """The model of the config, split into `num_subnets` where the method splits it."""
    m = config.model
    dtype = {"float32": None, "bfloat16": jnp.bfloat16}[m.dtype]
    model = MLP(m.hidden, dataset.num_classes, norm=m.norm, bias=m.bias, activation=m.activation, dtype=dtype)
    split = config.method in ("ist", "ensemble")
    parts = config.num_subnets if split else 1
    scaling = m.scaling if split else "none"
    try:
        make = DECOMPOSITIONS[config.decomposition]
        return make(model, dataset.example, num_subnets=parts, partition=config.partition, scaling=scaling)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def schedule(o: Optimizer, total_steps: int) -> optax.Schedule:
    """The learning rate over the local steps of the whole run."""
    warmup = round(o.warmup * total_steps)
    rest = max(total_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(o.learning_rate),
        "cosine": optax.cosine_decay_schedule(o.learning_rate, rest),
        "linear": optax.linear_schedule(o.learning_rate, 0.0, rest),
        "step": optax.piecewise_constant_schedule(o.learning_rate, {rest // 2: 0.1, rest * 3 // 4: 0.1}),
    }[o.schedule]
    rise = optax.linear_schedule(0.0, o.learning_rate, max(warmup, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def optimizer(o: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """The local optimizer."""
    rate = schedule(o, total_steps)
    decay = optax.add_decayed_weights(o.weight_decay) if o.weight_decay else optax.identity()
    chosen = {
        "sgd": lambda: optax.chain(decay, optax.sgd(rate, momentum=o.momentum or None)),
        "adam": lambda: optax.chain(decay, optax.adam(rate)),
        "adamw": lambda: optax.adamw(rate, weight_decay=o.weight_decay),
    }[o.name]()
    return optax.chain(optax.clip_by_global_norm(o.clip), chosen) if o.clip else chosen


def num_workers(config: Config) -> int:
    return 1 if config.method == "single" else config.num_subnets


def _main(config: Config, split: Decomposition, task: Task, tx: optax.GradientTransformation, batch_size: int) -> Algorithm:
    """The algorithm of the config's method."""
    workers = num_workers(config)
    placement = make_placement(config.placement, workers, config.num_devices)
    common = dict(batch_size=batch_size, placement=placement)
    outer_tx = None
    if config.outer.name == "sgd" or config.method == "diloco":
        outer_tx = optax.sgd(config.outer.learning_rate, config.outer.momentum or None, nesterov=bool(config.outer.momentum))
    kept = {"diloco": "own"}.get(config.method, "reset") if config.opt_state == "auto" else config.opt_state
    if config.method in ("data_parallel", "single"):
        return data_parallel(split, task, tx, num_workers=workers, **common)
    if config.method == "ensemble":
        return ensemble(split, task, tx, **common)
    trained = split if config.method == "ist" else undivided(split, workers)
    return ist(trained, task, tx, opt_state=kept, outer_tx=outer_tx, **common)


def phases(config: Config, dataset: Dataset) -> tuple[list[Phase], Task]:
    """Warm-up by local SGD, the method itself, a dense phase: whichever the config gives samples to."""
    split = decomposition(config, dataset)
    task = classification(dataset.mean, dataset.std)
    workers, batch_size = num_workers(config), config.batch_size or dataset.num_train
    samples = config.epochs * dataset.num_train
    shares = (config.warmup_phase, 1 - config.warmup_phase - config.dense_phase, config.dense_phase)
    per_step = workers * batch_size
    total_steps = sum(-(-round(share * samples) // per_step) for share in shares)
    tx = optimizer(config.optimizer, total_steps)
    placement = make_placement(config.placement, workers, config.num_devices)
    whole = dict(batch_size=batch_size, placement=placement)
    makers = (
        lambda: ist(undivided(split, workers), task, tx, **whole),
        lambda: _main(config, split, task, tx, batch_size),
        lambda: data_parallel(split, task, tx, num_workers=workers, **whole),
    )
    try:
        made = [Phase(make(), round(share * samples), config.local_steps) for make, share in zip(makers, shares) if share]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert sum(map(phase_steps, made)) == total_steps
    return made, task


def loop_config(config: Config) -> LoopConfig:
    """The part of the config that is the loop's."""
    return LoopConfig(
        seed=config.seed,
        name=config.method,
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        eval_batch_size=config.eval_batch_size,
        eval_sample=config.eval_sample if config.model.eval_norm == "train" else 0,
        eval_subnets=config.eval_subnets,
    )
