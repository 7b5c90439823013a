"""From a validated config to (phases, task, dataset)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ist_jax import data
from ist_jax.cli.architectures import ARCHITECTURES, decomposition_of
from ist_jax.cli.architectures.base import splits
from ist_jax.cli.config import Config, ConfigError, Optimizer
from ist_jax.cli.quantities import link
from ist_jax.cli.validation import num_workers, placement_of
from ist_jax.data import Dataset, Spec
from ist_jax.decompositions import Decomposition, replicated
from ist_jax.methods import Method as Algorithm
from ist_jax.methods import data_parallel, ensemble, ist
from ist_jax.tasks import Task, classification, node_classification
from ist_jax.training.failures import Failures
from ist_jax.training.loop import LoopConfig, Phase, phase_steps

# Spec.task, the kind of data -> its task; a new one is a line here
TASKS: dict[str, Callable[[Config, Spec], Task]] = {
    "classification": lambda config, spec: _classification(config, spec),
    "node_classification": lambda config, spec: node_classification(
        config.data.layer_nodes, len(config.model.hidden)
    ),
}


def _classification(config: Config, spec: Spec) -> Task:
    if config.data.augment != "none" and len(spec.example_shape) < 2:
        raise ConfigError(
            f"data.augment={config.data.augment!r} is of images, and an input has shape {spec.example_shape}"
        )
    size = spec.example_shape[:2] if config.data.image_size else None
    return classification(
        spec.mean,
        spec.std,
        augment=config.data.augment,
        padding=config.data.crop_padding,
        size=size,
    )


def dataset(config: Config) -> Dataset:
    """The data of the config."""
    d, architecture = config.data, ARCHITECTURES[decomposition_of(config)]
    held_out = None if d.name in data.GRAPHS else d.validation_fraction
    split = dict(
        split=d.split,
        alpha=d.alpha,
        validation_fraction=held_out,
        seed=config.seed,
        image_size=d.image_size,
    )
    return data.load(
        d.name,
        d.dir,
        d.dataset,
        **split,
        graph=architecture.graph(config) if architecture.graph else None,
    )


def decomposition(config: Config, spec: Spec) -> Decomposition:
    """The model of the config, split into `num_subnets` where the method splits it.

    Raises:
      ConfigError: the model is for other data, or does not fall into so many subnetworks.
    """
    architecture = ARCHITECTURES[decomposition_of(config)]
    if architecture.task != spec.task:
        raise ConfigError(
            f"model.name={config.model.name!r} is for {architecture.task}, and data.name={config.data.name!r} is {spec.task}: "
            "choose another of the two"
        )
    try:
        return architecture.decompose(config, spec, config.num_subnets if splits(config) else 1)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def task(config: Config, spec: Spec) -> Task:
    """Batch, loss and metrics of the kind of data that `spec` is of."""
    return TASKS[spec.task](config, spec)


def schedule(o: Optimizer, total_steps: int) -> optax.Schedule:
    """The learning rate over the local steps of the whole run."""
    warmup = round(o.warmup * total_steps)
    rest = max(total_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(o.learning_rate),
        "cosine": optax.cosine_decay_schedule(o.learning_rate, rest),
        "linear": optax.linear_schedule(o.learning_rate, 0.0, rest),
        "step": optax.piecewise_constant_schedule(
            o.learning_rate, {rest // 2: 0.1, rest * 3 // 4: 0.1}
        ),
        "thirds": optax.piecewise_constant_schedule(
            o.learning_rate, {rest // 3: 0.1, rest * 2 // 3: 0.1}
        ),
    }[o.schedule]
    rise = optax.linear_schedule(0.0, o.learning_rate, max(warmup, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def demon(momentum: float, total_steps: int) -> optax.Schedule:
    """Momentum that decays to 0 (Chen, Wolfe, Li, Kyrillidis: Demon, arXiv 1910.04952, equation 1)."""

    def at(step: jax.typing.ArrayLike) -> jax.Array:
        left = jnp.maximum(1 - step / total_steps, 0)
        return momentum * left / (1 - momentum + momentum * left)

    return at


def _sgd(o: Optimizer, rate: optax.Schedule, total_steps: int) -> optax.GradientTransformation:
    if o.momentum_schedule == "constant":
        return optax.sgd(rate, momentum=o.momentum or None)
    make = optax.inject_hyperparams(
        lambda learning_rate, momentum: optax.sgd(learning_rate, momentum)
    )
    return make(learning_rate=rate, momentum=demon(o.momentum, total_steps))


def optimizer(o: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """The local optimizer."""
    rate = schedule(o, total_steps)
    decay = optax.add_decayed_weights(o.weight_decay) if o.weight_decay else optax.identity()
    chosen = {
        "sgd": lambda: optax.chain(decay, _sgd(o, rate, total_steps)),
        "adam": lambda: optax.chain(decay, optax.adam(rate)),
        "adamw": lambda: optax.adamw(rate, weight_decay=o.weight_decay),
    }[o.name]()
    return optax.chain(optax.clip_by_global_norm(o.clip), chosen) if o.clip else chosen


def _outer(config: Config) -> optax.GradientTransformation | None:
    if config.outer.name != "sgd" and config.method != "diloco":
        return None
    momentum = config.outer.momentum
    return optax.sgd(config.outer.learning_rate, momentum or None, nesterov=bool(momentum))


def _main(
    config: Config,
    split: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    options: dict,
) -> Algorithm:
    """The algorithm of the config's method."""
    workers = num_workers(config)
    if config.method in ("data_parallel", "single"):
        return data_parallel(split, task, tx, num_workers=workers, **options)
    if config.method == "ensemble":
        return ensemble(split, task, tx, **options)
    trained = split if config.method == "ist" else replicated(split, workers)
    automatic = "local" if config.method == "diloco" else "reset"
    opt_state = automatic if config.opt_state == "auto" else config.opt_state
    sent = dict(home_sharded=config.exchange.resident, compression=config.exchange.wire)
    return ist(trained, task, tx, opt_state=opt_state, outer_tx=_outer(config), **sent, **options)


def phases(config: Config, spec: Spec) -> tuple[list[Phase], Task]:
    """Warm-up by local SGD, the method itself, a dense phase: whichever the config gives samples to.

    Raises:
      ConfigError: a phase of less than one sample, or parts that do not fit together.
    """
    split, problem = decomposition(config, spec), task(config, spec)
    workers, batch_size = num_workers(config), config.batch_size or spec.num_train
    if batch_size > spec.num_train:
        raise ConfigError(
            f"batch_size={batch_size} is at most the {spec.num_train} training examples: use 0 for all of them"
        )
    own_steps = (config.local_steps, *config.local_steps_schedule)
    parts = [(1 - config.warmup_fraction - config.dense_fraction) / len(own_steps)] * len(own_steps)
    shares = (config.warmup_fraction, *parts, config.dense_fraction)
    samples = [round(share * config.epochs * spec.num_train) for share in shares]
    if any(share and not count for share, count in zip(shares, samples)):
        raise ConfigError(
            f"epochs={config.epochs:g} of {spec.num_train} examples leave a phase (shares {shares}) no sample"
        )
    total_steps = sum(-(-count // (workers * batch_size)) for count in samples)
    tx = optimizer(config.optimizer, total_steps)
    options = dict(batch_size=batch_size, placement=placement_of(config))
    warmup_state = "carry" if config.opt_state == "carry" else "reset"
    makers = (
        (
            lambda: ist(replicated(split, workers), problem, tx, opt_state=warmup_state, **options),
            config.local_steps,
        ),
        *((lambda: _main(config, split, problem, tx, options), steps) for steps in own_steps),
        (
            lambda: data_parallel(split, problem, tx, num_workers=workers, **options),
            config.local_steps,
        ),
    )
    try:
        made = [
            Phase(make(), count, steps) for (make, steps), count in zip(makers, samples) if count
        ]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert sum(map(phase_steps, made)) == total_steps
    return made, problem


def loop_config(config: Config) -> LoopConfig:
    """The part of the config that is the loop's."""
    return LoopConfig(
        seed=config.seed,
        name=config.method,
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        eval_batch_size=config.eval_batch_size,
        calibration_examples=config.eval_sample if config.model.eval_norm == "train" else 0,
        eval_subnets=config.eval_subnets,
        failures=Failures(config.drop.rate, tuple(zip(config.drop.rounds, config.drop.workers))),
        time_syncs=config.time_syncs,
        link=link(config.link.bandwidth, config.link.latency),
    )
