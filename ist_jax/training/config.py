"""The arguments of the training loop: phases, and how to evaluate and record them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ist_jax.analysis.links import Link, check_simulated
from ist_jax.methods import Method
from ist_jax.training.failures import Failures
from ist_jax.training.files import json_text


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run that is trained by one method.

    Attributes:
      method: trains.
      samples: how many all workers train on together; rounded up to full local steps.
      local_steps: J, of every worker in a round. The last round may be shorter.

    Raises:
      ValueError: there are no samples or no local steps, or rounds of `local_steps` would lose
        gradients that the optimizer accumulates.
    """

    method: Method
    samples: int
    local_steps: int

    def __post_init__(self):
        if self.samples < 1 or self.local_steps < 1:
            raise ValueError(
                f"a phase has at least one sample and one local step, not {self.samples} and "
                f"{self.local_steps}"
            )
        self.method.check_local_steps(self.local_steps)

    @property
    def samples_per_step(self) -> int:
        """Samples of one local step of all workers."""
        return self.method.num_workers * self.method.batch_size

    def rounds(self, done: int) -> list[int]:
        """The local steps of each remaining round, after `done` local steps of the phase."""
        total = phase_steps(self)
        return [
            min(self.local_steps, total - step) for step in range(done, total, self.local_steps)
        ]

    def draws(self, done: int) -> list[range]:
        """The positions that each remaining round draws from every worker's stream of examples."""
        batch_size = self.method.batch_size
        starts = range(done, phase_steps(self), self.local_steps)
        return [
            range(start * batch_size, (start + steps) * batch_size)
            for start, steps in zip(starts, self.rounds(done))
        ]


def phase_steps(phase: Phase) -> int:
    """Local steps of a phase: its samples, rounded up to full steps of all workers."""
    return -(-phase.samples // phase.samples_per_step)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Options of the training loop.

    Attributes:
      seed: of the root key, from which all keys are derived.
      name: printed in front of progress lines; in tables, the name of the method.
      eval_every: rounds between evaluations; 0: only at the end.
      checkpoint_every: rounds between checkpoints; 0: only at the end.
      eval_batch_size: examples per evaluation batch.
      calibration_examples: training examples on which normalisation statistics are measured; 0:
        each batch is normalised by its own statistics (the authors' protocol).
      eval_subnets: whether every subnetwork is evaluated as well.
      failures: which workers fail in which round.
      link: a link whose time is simulated, for "simulated_seconds" in the records; only for workers
        on one device, or on the CPU devices of one process.
      time_syncs: whether every phase begins by timing a synchronisation, on a copy of the state.
      settings: further JSON values to record, such as {"learning_rate": 0.1}. Tables label runs by
        the values in which they differ.

    Raises:
      ValueError: JSON cannot represent a value of `settings`.
    """

    seed: int = 0
    name: str = "train"
    eval_every: int = 20
    checkpoint_every: int = 0
    eval_batch_size: int = 1000
    calibration_examples: int = 2000
    eval_subnets: bool = False
    failures: Failures = dataclasses.field(default_factory=Failures)
    link: Link | None = None
    time_syncs: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        try:
            json_text(dict(self.settings))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"LoopConfig.settings may hold only JSON values ({error}): write the value as text"
            ) from error

    def check_link(self, phases: Sequence[Phase]) -> None:
        """Raises ValueError if a link is simulated where a phase has a real one."""
        for phase in phases if self.link is not None else ():
            check_simulated(phase.method.sharding.device_set)
