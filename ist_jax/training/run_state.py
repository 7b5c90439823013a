"""Where a run stands: its counters and its clock, saved with every checkpoint."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ist_jax.analysis.links import Link, num_separate
from ist_jax.core.task import Selection
from ist_jax.methods import Costs
from ist_jax.training.workdir import WorkdirError

_MAY_BE_UNKNOWN = ("flops_per_device", "evaluation_bytes_per_device", "other_bytes_per_device")


@dataclasses.dataclass
class RunState:
    """Where a run stands, besides the method's state: plain numbers that JSON can hold.

    Attributes:
      phase: index of the current phase.
      round: rounds done in all phases.
      steps: local steps done in this phase.
      local_steps: local steps done in all phases.
      samples_seen: by all workers together.
      failed_workers: summed over rounds.
      bytes_per_device: bytes that a device has sent in rounds.
      evaluation_bytes_per_device: bytes that a device has sent in evaluations; None once they
        could not be counted.
      other_bytes_per_device: bytes that a device has sent to start phases and to time
        synchronisations; None once they could not be counted.
      bound_per_device: lower bound of the bytes of these synchronisations.
      all_reduce_per_device: bytes of ring all-reduces of the full model in their place.
      flops_per_device: of all local steps; None once a backend did not count them.
      seconds: of training.
      compile_seconds: of compilation, and of timing synchronisations.
      evaluation_seconds: of evaluation.
      device_seconds: estimate of `seconds` if every worker had its own device.
      link_seconds: of the synchronisations over the simulated link.
      measured: phase -> the result of `analysis.meter.measure_round` for its round.
      selected_round: round of the selected evaluation; 0 before the first.
      selected: metrics of the selected evaluation by split.
    """

    phase: int = 0
    round: int = 0
    steps: int = 0
    local_steps: int = 0
    samples_seen: int = 0
    failed_workers: int = 0
    bytes_per_device: float = 0.0
    evaluation_bytes_per_device: float | None = 0.0
    other_bytes_per_device: float | None = 0.0
    bound_per_device: float = 0.0
    all_reduce_per_device: float = 0.0
    flops_per_device: float | None = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    device_seconds: float = 0.0
    link_seconds: float = 0.0
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)
    selected_round: int = 0
    selected: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._section, self._since = "", 0.0
        self._devices_per_worker = 1.0

    def use_devices(self, sharding: jax.sharding.Sharding, num_workers: int) -> None:
        """Sets the devices, and the number of workers on them, for `device_seconds`."""
        self._devices_per_worker = num_separate(sharding.device_set) / num_workers

    @contextlib.contextmanager
    def timed(self, section: str) -> Iterator[None]:
        """Adds the time spent inside to a section: "train", "compile" or "evaluate".

        Sections nest: the time of an inner one is not part of the outer one.
        """
        outer = self._section
        self._enter(section)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, section: str) -> None:
        self.tick()
        self._section = section

    def tick(self) -> None:
        """Adds the time since the last tick to the current section."""
        now = time.perf_counter()
        if self._section:
            self.add_seconds(self._section, now - self._since)
        self._since = now

    def add_seconds(self, section: str, seconds: float) -> None:
        """Adds to the seconds of "train", "compile" or "evaluate"."""
        if section == "train":
            self.seconds += seconds
            self.device_seconds += seconds * self._devices_per_worker
        elif section == "compile":
            self.compile_seconds += seconds
        elif section == "evaluate":
            self.evaluation_seconds += seconds
        else:
            raise ValueError(f"a section is train, compile or evaluate, not {section!r}")

    def start_phase(self, number: int) -> None:
        """Ends a phase and starts phase `number`."""
        self.phase, self.steps = number, 0

    def add_round(self, costs: Costs, steps: int, samples: int, link: Link | None) -> None:
        """Counts a round.

        Args:
          costs: of the method.
          steps: local steps of the round.
          samples: of the round, of all workers together.
          link: over which synchronisations are simulated, if any.
        """
        self.round += 1
        self.steps += steps
        self.local_steps += steps
        self.samples_seen += samples
        flops = self.measured.get(str(self.phase), {}).get("flops_per_local_step")
        done = self.flops_per_device
        self.flops_per_device = None if flops is None or done is None else done + steps * flops
        self.bytes_per_device += costs.bytes_per_round(steps)
        self.bound_per_device += costs.syncs(steps) * costs.lower_bound
        self.all_reduce_per_device += costs.syncs(steps) * costs.all_reduce
        self.link_seconds += costs.link_seconds(link, steps) if link else 0.0

    def add_sent(self, purpose: str, sent: float | None) -> None:
        """Adds to the bytes that a device has sent for the purpose "evaluation" or "other".

        None: these bytes cannot be counted, so the sum is None from now on.
        """
        name = f"{purpose}_bytes_per_device"
        done = getattr(self, name)
        setattr(self, name, None if done is None or sent is None else done + sent)

    def add_failures(self, weight_S: np.ndarray) -> None:
        """Counts the workers of a round whose weight is 0."""
        self.failed_workers += int((weight_S == 0).sum())

    def select(self, metrics: Mapping[str, Any], selects: Selection) -> None:
        """Keeps the metrics of this round's evaluation if they are the best on validation data.

        Args:
          metrics: by split.
          selects: `Task.selects`. The first of equal evaluations is kept.
        """
        value = lambda evaluation: evaluation["validation"][selects.metric]
        best = value(self.selected) if self.selected else None
        if selects.improves(value(metrics), best):
            self.selected_round, self.selected = self.round, dict(metrics)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], num_phases: int) -> "RunState":
        """The run state that a checkpoint has saved as JSON.

        Raises:
          WorkdirError: another version of this software saved it, or a run with other phases.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        fits = saved.keys() == fields.keys() and all(
            _is_possible(saved[name], field) for name, field in fields.items()
        )
        if not fits or saved["phase"] >= num_phases:
            raise WorkdirError(
                "its checkpoint was saved by another version of this software, or by a run with "
                "other phases: use another workdir"
            )
        return cls(**saved)


def _is_possible(value: Any, field: dataclasses.Field) -> bool:
    """Whether a field may have this value: counts and times are finite and never negative."""
    if field.default_factory is dict:
        return isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())
    if value is None:
        return field.name in _MAY_BE_UNKNOWN
    is_number = type(value) is int or (type(value) is float and isinstance(field.default, float))
    return is_number and math.isfinite(value) and value >= 0
