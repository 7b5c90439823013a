"""Where a run stands, and what it comes to in the end."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ist_jax.algorithms.base import Costs
from ist_jax.workdir import WorkdirError
from ist_jax.writers import Row


@dataclasses.dataclass
class Bookkeeping:
    """Where a run stands, beside the algorithm's state: plain numbers, saved with every checkpoint."""

    phase: int = 0
    round: int = 0
    steps: int = 0  # local steps of this phase
    samples_seen: int = 0
    bytes_per_device: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    local_steps: int = 0
    loss_sum: float = 0.0  # of the rounds since the last evaluation
    loss_rounds: int = 0
    rows: int = 0  # evaluated rounds
    metered: dict[str, Any] = dataclasses.field(default_factory=dict)  # phase -> what `meter.measured` gave
    best_validation: float = -1.0
    test_at_best: float = -1.0

    def add_compile_seconds(self, seconds: float) -> None:
        self.compile_seconds += seconds

    @classmethod
    def of(cls, saved: Mapping[str, Any], num_phases: int) -> "Bookkeeping":
        """What a checkpoint was saved with. Raises WorkdirError if this software or this run is another."""
        if saved.keys() != {field.name for field in dataclasses.fields(cls)} or saved["phase"] >= num_phases:
            raise WorkdirError("its checkpoint is of another version of this software, or of other phases: use another workdir")
        return cls(**saved)


def summarise(book: Bookkeeping, history: Sequence[Row], costs: Costs, phase: str) -> dict[str, Any]:
    """The summary of a finished run; what was not measured is None.

    Args:
      book: where the run stands at its end.
      history: the row of every evaluated round.
      costs: of the phase whose workers hold the smallest model.
      phase: its number.
    """
    metered = book.metered.get(phase, {})
    memory = metered.get("memory") or {}
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
        "seconds_per_sync": None,
        "bytes_per_device": book.bytes_per_device,
        "parameters": {"model": costs.model_parameters, "per_device": costs.device_parameters},
        "bytes_per_sync_per_device": {
            "arithmetic": costs.bytes_per_sync,
            "compiled": metered.get("bytes_per_sync"),
            "lower_bound": costs.lower_bound,
            "all_reduce": costs.all_reduce,
        },
        "bytes_per_sync_per_leaf": {leaf.name: leaf._asdict() for leaf in costs.leaves},
        "flops_per_local_step_per_device": metered.get("flops_per_local_step"),
        "peak_memory_bytes_per_device": memory.get("peak"),
        "memory_bytes_per_device": memory or None,
    }
