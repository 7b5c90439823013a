"""An experiment: all objects that a configuration describes, resolved once."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ist_jax.cli import builders, methods
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import num_workers
from ist_jax.cli.validation import placement_of, validate
from ist_jax.core.placement import Placement
from ist_jax.data import Dataset, Spec
from ist_jax.decompositions import Decomposition
from ist_jax.methods import Method
from ist_jax.tasks import Task
from ist_jax.training.loop import Phase, phase_steps


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A resolved configuration.

    Attributes:
      config: validated; decomposition and scaling are no longer 'auto'.
      spec: of the data.
      dataset: the data; None if only their spec was given.
      decomposition: the model, and how the method splits it.
      task: batch, loss and metrics.
      placement: where workers train.
      num_workers: S.
      phases: the warm-up, the method (a phase for every number of local steps) and dense training;
        those that have samples.
    """

    config: Config
    spec: Spec
    dataset: Dataset | None
    decomposition: Decomposition
    task: Task
    placement: Placement
    num_workers: int
    phases: list[Phase]

    @property
    def data(self) -> Dataset:
        """The data. They must have been loaded."""
        assert self.dataset is not None
        return self.dataset

    @property
    def longest(self) -> Phase:
        """The phase with the most samples."""
        return max(self.phases, key=lambda phase: phase.samples)

    @property
    def local_steps(self) -> int:
        """Local steps of all phases."""
        return sum(map(phase_steps, self.phases))

    def is_method_phase(self, number: int) -> bool:
        """Whether the method trains phase `number`, so that it is neither warm-up nor dense."""
        first = int(self.config.warmup_fraction > 0)
        return first <= number <= first + len(self.config.local_steps_schedule)


def resolve(config: Config, dataset: Dataset | None = None, spec: Spec | None = None) -> Experiment:
    """Builds the experiment that a configuration describes.

    Args:
      config: its values have passed `config.checked`.
      dataset: the data. They are loaded if neither `dataset` nor `spec` is given.
      spec: of the data, if the data are not needed.

    Raises:
      ConfigError: the configuration cannot run.
      DataError: the data cannot be read.
    """
    config = validate(config)
    if spec is None:
        dataset = dataset or builders.load_dataset(config)
        spec = dataset.spec
    decomposition = builders.make_decomposition(config, spec)
    task, placement = builders.make_task(config, spec), placement_of(config)
    phases = _phases(config, spec, decomposition, task, placement)
    return Experiment(
        config, spec, dataset, decomposition, task, placement, num_workers(config), phases
    )


def _phases(
    config: Config, spec: Spec, decomposition: Decomposition, task: Task, placement: Placement
) -> list[Phase]:
    batch_size = config.batch_size or spec.num_train
    if batch_size > spec.num_train:
        raise ConfigError(
            f"batch_size={batch_size} is above the number of training examples, {spec.num_train}: "
            "use 0 for all of them"
        )
    planned = _planned(config, spec)
    per_step = num_workers(config) * batch_size
    total_steps = sum(-(-samples // per_step) for _, samples, _ in planned)
    tx = builders.make_optimizer(config, total_steps)
    options: dict[str, Any] = dict(batch_size=batch_size, placement=placement)
    try:
        phases = [
            Phase(make(config, decomposition, task, tx, **options), samples, local_steps)
            for make, samples, local_steps in planned
        ]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert sum(map(phase_steps, phases)) == total_steps
    return phases


def _planned(config: Config, spec: Spec) -> list[tuple[Callable[..., Method], int, int]]:
    """(maker of the method, samples, local steps) of every phase that has samples."""
    local_steps = (config.local_steps, *config.local_steps_schedule)
    share = (1 - config.warmup_fraction - config.dense_fraction) / len(local_steps)
    parts = [
        (methods.warmup, config.warmup_fraction, config.local_steps),
        *((builders.make_method, share, steps) for steps in local_steps),
        (methods.dense, config.dense_fraction, config.local_steps),
    ]
    planned = [
        (make, round(share * config.epochs * spec.num_train), steps)
        for make, share, steps in parts
        if share
    ]
    if not all(samples for _, samples, _ in planned):
        shares = ", ".join(f"{share:g}" for _, share, _ in parts if share)
        raise ConfigError(
            f"epochs={config.epochs:g} of {spec.num_train} examples leave no sample for a phase "
            f"(shares {shares}): use more epochs"
        )
    return planned
