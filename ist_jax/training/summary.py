"""Where a run stands, and what it comes to in the end."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ist_jax.analysis.costs import energy
from ist_jax.analysis.links import Link
from ist_jax.methods import Costs
from ist_jax.methods import Method as Algorithm
from ist_jax.training.loggers import Row
from ist_jax.training.workdir import WorkdirError


@dataclasses.dataclass
class RunState:
    """Where a run stands, beside the algorithm's state: plain numbers, saved with every checkpoint."""

    phase: int = 0
    round: int = 0
    steps: int = 0  # local steps of this phase
    samples_seen: int = 0
    bytes_per_device: float = 0.0
    bound_per_device: float = 0.0  # the lower bounds of as many synchronisations
    all_reduce_per_device: float = 0.0  # and ring all-reduces of the full model
    flops_per_device: float | None = 0.0  # of local steps; None once a backend did not count them
    seconds: float = 0.0
    compile_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    local_steps: int = 0
    lost_workers: int = 0
    device_seconds: float = (
        0.0  # of training, if every worker had a device of its own like those here
    )
    link_seconds: float = 0.0  # of synchronisations over the link
    loss_sum: float = 0.0  # of the rounds since the last evaluation
    loss_rounds: int = 0
    rows: int = 0  # evaluated rounds
    metered: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # phase -> what `meter.measured` gave
    best_validation: float = -1.0
    test_at_best: float = -1.0

    def add_compile_seconds(self, seconds: float) -> None:
        self.compile_seconds += seconds

    def add_seconds(self, seconds: float, algorithm: Algorithm) -> None:
        """Seconds of training here, where devices may train several workers, and CPU devices of a process share its cores."""
        self.seconds += seconds
        devices = algorithm.sharding.device_set
        apart = {
            device.process_index if device.platform == "cpu" else device.id for device in devices
        }
        self.device_seconds += seconds * len(apart) / algorithm.num_workers

    def add_round(self, algorithm: Algorithm, steps: int, link: Link | None) -> None:
        """A round of `steps` local steps."""
        self.round += 1
        self.steps += steps
        self.local_steps += steps
        self.samples_seen += steps * algorithm.num_workers * algorithm.batch_size
        of_step = self.metered.get(str(self.phase), {}).get("flops_per_local_step")
        known = of_step is not None and self.flops_per_device is not None
        self.flops_per_device = self.flops_per_device + steps * of_step if known else None
        syncs = algorithm.costs.syncs(steps)
        self.bytes_per_device += algorithm.costs.bytes_per_round(steps)
        self.bound_per_device += syncs * algorithm.costs.lower_bound
        self.all_reduce_per_device += syncs * algorithm.costs.all_reduce
        self.link_seconds += algorithm.costs.link_seconds(link, steps) if link else 0.0

    @classmethod
    def of(cls, saved: Mapping[str, Any], num_phases: int) -> "RunState":
        """What a checkpoint was saved with. Raises WorkdirError if this software or this run is another."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        fits = saved.keys() == fields.keys() and all(
            _is_of(saved[name], field) for name, field in fields.items()
        )
        if not fits or saved["phase"] >= num_phases:
            raise WorkdirError(
                "its checkpoint is of another version of this software, or of other phases: use another workdir"
            )
        return cls(**saved)


def _is_of(value: Any, field: dataclasses.Field) -> bool:
    """Whether a field of the bookkeeping may have this value; counts and times do not fall below where they start."""
    if field.default_factory is dict:
        return isinstance(value, dict) and all(isinstance(of, dict) for of in value.values())
    if value is None:
        return field.name == "flops_per_device"
    of_type = type(value) is int or (type(value) is float and isinstance(field.default, float))
    return (
        of_type
        and math.isfinite(value)
        and value >= (-math.inf if field.name == "loss_sum" else field.default)
    )


def evaluated_row(book: RunState, result: Any, loss_SxJ: Any, *, with_link: bool) -> Row:
    """The row of an evaluated round, which the bookkeeping counts.

    Args:
      book: where the run stands.
      result: of the evaluation: split -> metrics.
      loss_SxJ: of the last round.
      with_link: whether 'simulated_seconds' are part of it: of training if every worker had a device of its own like
        those here, and of synchronisations over the link.
    """
    test, validation = result["test"], result["validation"]
    if validation["accuracy"] > book.best_validation:
        book.best_validation, book.test_at_best = (
            float(validation["accuracy"]),
            float(test["accuracy"]),
        )
    row = {
        "round": book.round,
        "phase": book.phase,
        "samples_seen": book.samples_seen,
        "seconds": book.seconds,
        "compile_seconds": book.compile_seconds,
        "evaluation_seconds": book.evaluation_seconds,
        "samples_per_second": book.samples_seen / book.seconds,
        "train_loss": book.loss_sum / book.loss_rounds,
        "test_accuracy": float(test["accuracy"]),
        "test_loss": float(test["loss"]),
        "validation_accuracy": float(validation["accuracy"]),
        "validation_loss": float(validation["loss"]),
        "bytes_per_device": book.bytes_per_device,
        "bytes_per_device_lower_bound": book.bound_per_device,
        "bytes_per_device_all_reduce": book.all_reduce_per_device,
        "flops_per_device": book.flops_per_device,
        "loss_per_subnet": loss_SxJ.mean(axis=1).tolist(),
        "lost_workers": book.lost_workers,
    }
    if with_link:
        row["simulated_seconds"] = book.device_seconds + book.link_seconds
    if "test_subnets" in result:
        row["subnet_test_accuracy"] = result["test_subnets"]["accuracy"].tolist()
    book.loss_sum, book.loss_rounds = 0.0, 0
    book.rows += 1
    return row


def summarise(book: RunState, history: Sequence[Row], costs: Costs, phase: str) -> dict[str, Any]:
    """The summary of a finished run; what was not measured is None.

    Args:
      book: where the run stands at its end.
      history: the row of every evaluated round.
      costs: of the phase whose workers hold the smallest model.
      phase: its number.
    """
    metered = book.metered.get(phase, {})
    memory, flops = metered.get("memory") or {}, book.flops_per_device
    return {
        "status": "finished",
        "test_accuracy": history[-1]["test_accuracy"],
        "test_accuracy_at_best_validation": book.test_at_best,
        "validation_accuracy": history[-1]["validation_accuracy"],
        "best_validation_accuracy": book.best_validation,
        "subnet_test_accuracy": history[-1].get("subnet_test_accuracy"),
        "samples_seen": book.samples_seen,
        "rounds": book.round,
        "local_steps": book.local_steps,
        "seconds": book.seconds,
        "compile_seconds": book.compile_seconds,
        "evaluation_seconds": book.evaluation_seconds,
        "seconds_per_local_step": book.seconds / book.local_steps,
        "seconds_per_sync": metered.get("seconds_per_sync"),
        "simulated_seconds": book.device_seconds + book.link_seconds
        if "simulated_seconds" in history[-1]
        else None,
        "lost_workers": book.lost_workers,
        "bytes_per_device": book.bytes_per_device,
        "parameters": {"model": costs.model_parameters, "per_device": costs.device_parameters},
        "bytes_per_sync_per_device": {
            "arithmetic": costs.bytes_per_sync,
            "compiled": metered.get("bytes_per_sync"),
            "lower_bound": costs.lower_bound,
            "all_reduce": costs.all_reduce,
        },
        "bytes_per_sync_per_leaf": {leaf.name: leaf._asdict() for leaf in costs.leaves},
        "flops_per_device": flops,
        "energy_estimate_joules_per_device": flops and energy(flops, book.bytes_per_device),
        "flops_per_local_step_per_device": metered.get("flops_per_local_step"),
        "peak_memory_bytes_per_device": memory.get("peak"),
        "memory_bytes_per_device": memory or None,
    }
