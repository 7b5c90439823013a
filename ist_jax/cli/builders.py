"""The library's objects for a validated configuration: data, decomposition, task, method."""

from collections.abc import Callable
from typing import Any

import optax

from ist_jax import data
from ist_jax.cli.architectures import ARCHITECTURES
from ist_jax.cli.config import Config, ConfigError, custom
from ist_jax.cli.methods import METHODS, splits
from ist_jax.cli.optimizers import local_optimizer
from ist_jax.cli.quantities import link
from ist_jax.data import Dataset, Spec
from ist_jax.decompositions import Decomposition
from ist_jax.methods import Method
from ist_jax.tasks import (
    Task,
    classification,
    multi_label,
    next_token,
    node_classification,
    regression,
)
from ist_jax.tasks.augment import channels_first_problem, has_channels_first
from ist_jax.training.failures import Failures
from ist_jax.training.loop import LoopConfig


def load_dataset(config: Config) -> Dataset:
    """The data of the config. Raises DataError if they cannot be read."""
    if custom.builds(config, "get_dataset"):
        return custom.build(config, "get_dataset", Dataset)
    d, graph = config.data, ARCHITECTURES[config.decomposition].graph
    is_graph = data.SOURCES[d.name].is_graph
    return data.load(
        d.name,
        d.dir,
        d.dataset,
        split=d.split,
        alpha=d.alpha,
        validation_fraction=None if is_graph else d.validation_fraction,
        seed=config.seed,
        image_size=d.image_size,
        standardise="whole" if is_graph else d.standardise,
        task=d.task,
        graph=graph(config) if graph else None,
        tokens=data.TokenOptions(d.context, d.vocabulary),
    )


def make_decomposition(config: Config, spec: Spec) -> Decomposition:
    """The model of the config, split into `num_subnets` where the method splits it.

    Raises:
      ConfigError: the model is for other data, or does not split into so many subnetworks.
    """
    architecture = ARCHITECTURES[config.decomposition]
    if architecture.tasks is not None and spec.task not in architecture.tasks:
        raise ConfigError(
            f"model.name={config.model.name!r} with decomposition={config.decomposition!r} is for "
            f"{', '.join(architecture.tasks)}, and data.name={config.data.name!r} is {spec.task}: "
            "choose another model or other data"
        )
    try:
        return architecture.decompose(config, spec, config.num_subnets if splits(config) else 1)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _inputs(config: Config, spec: Spec) -> dict[str, Any]:
    """The arguments of a task over independent examples that say how inputs are prepared."""
    d = config.data
    if d.augment != "none" and len(spec.example_shape) < 2:
        raise ConfigError(
            f"data.augment={d.augment!r} is for images, and an input has shape {spec.example_shape}"
        )
    if d.augment != "none" and has_channels_first(spec.example_shape):
        problem = channels_first_problem(spec.example_shape)
        raise ConfigError(f"data.augment={d.augment!r}: {problem}")
    size = spec.example_shape[:2] if d.image_size else None
    options = dict(augment=d.augment, padding=d.crop_padding, size=size)
    return dict(mean=spec.mean, std=spec.std, **options)


def _classification(config: Config, spec: Spec) -> Task:
    return classification(**_inputs(config, spec))


def _regression(config: Config, spec: Spec) -> Task:
    moments: dict[str, Any] = dict(target_mean=spec.target_mean, target_std=spec.target_std)
    return regression(**_inputs(config, spec), **moments)


def _multi_label(config: Config, spec: Spec) -> Task:
    return multi_label(**_inputs(config, spec), loss=config.label_loss)


def _node_classification(config: Config, spec: Spec) -> Task:
    return node_classification(config.data.layer_nodes, len(config.model.hidden))


def _next_token(config: Config, spec: Spec) -> Task:
    (context,) = spec.example_shape
    return next_token(context, shift=config.data.shift, bytes_per_token=spec.bytes_per_token)


# Spec.task, the kind of data -> its task. A new task is a line here
TASKS: dict[str, Callable[[Config, Spec], Task]] = {
    "classification": _classification,
    "regression": _regression,
    "multi_label": _multi_label,
    "node_classification": _node_classification,
    "next_token": _next_token,
}


def make_task(config: Config, spec: Spec) -> Task:
    """The task that the config file builds, or else the one for this kind of data.

    Raises:
      ConfigError: an option of the config is for another kind of data, or there is no task for it.
    """
    if custom.builds(config, "get_task"):
        return custom.build(config, "get_task", Task, spec)
    if spec.task not in TASKS:
        raise ConfigError(
            f"data.name={config.data.name!r} is {spec.task}, but there are tasks only for "
            f"{', '.join(TASKS)}: define get_task(config, spec) in the config file"
        )
    if config.label_loss != "binary" and spec.task != "multi_label":
        raise ConfigError(
            f"label_loss={config.label_loss!r} is for data with several labels per example "
            f"(multi_label), and data.name={config.data.name!r} is {spec.task}: leave it out"
        )
    return TASKS[spec.task](config, spec)


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """The local optimizer of the config, for `total_steps` local steps. Raises ConfigError."""
    if custom.builds(config, "get_optimizer"):
        kind = optax.GradientTransformation
        return custom.build(config, "get_optimizer", kind, total_steps)
    return local_optimizer(config.optimizer, total_steps)


def make_method(
    config: Config,
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    **options: Any,
) -> Method:
    """The method of the config; `options` are batch_size and placement.

    Raises:
      ValueError: the parts do not fit together.
    """
    return METHODS[config.method].make(config, decomposition, task, tx, **options)


def loop_config(config: Config) -> LoopConfig:
    """The options of the training loop that the config describes."""
    measures = config.model.eval_norm == "train"
    schedule = tuple(zip(config.failures.rounds, config.failures.workers))
    return LoopConfig(
        seed=config.seed,
        name=config.method,
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        eval_batch_size=config.eval_batch_size,
        calibration_examples=config.calibration_examples if measures else 0,
        eval_subnets=config.eval_subnets,
        failures=Failures(config.failures.rate, schedule),
        time_syncs=config.time_syncs,
        link=link(config.link.bandwidth, config.link.latency),
    )
