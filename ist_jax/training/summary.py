"""The rows of a run's rounds, and the summary of a finished run."""

from collections.abc import Mapping, Sequence
from typing import Any

from ist_jax.analysis.costs import energy
from ist_jax.core.task import Task
from ist_jax.methods import Costs
from ist_jax.training.loggers import Row, evaluation
from ist_jax.training.run_state import RunState


def round_row(run_state: RunState) -> dict[str, Any]:
    """The row of the round that was dispatched last, before its loss and duration are known."""
    return {
        "round": run_state.round,
        "phase": run_state.phase,
        "samples_seen": run_state.samples_seen,
        "seconds": run_state.seconds,
        "bytes_per_device": run_state.bytes_per_device,
        "failed_workers": run_state.failed_workers,
    }


def evaluated_row(
    run_state: RunState, loss_S: Sequence[float | None], *, with_link: bool
) -> dict[str, Any]:
    """What an evaluation adds to a round's row, except its metrics.

    Args:
      run_state: where the run stands.
      loss_S: the mean of every worker in the round; None for a worker without examples.
      with_link: whether to add "simulated_seconds" (`_simulated`).
    """
    row = {
        "compile_seconds": run_state.compile_seconds,
        "evaluation_seconds": run_state.evaluation_seconds,
        "samples_per_second": run_state.samples_seen / run_state.seconds,
        "evaluation_bytes_per_device": run_state.evaluation_bytes_per_device,
        "other_bytes_per_device": run_state.other_bytes_per_device,
        "bytes_per_device_lower_bound": run_state.bound_per_device,
        "bytes_per_device_all_reduce": run_state.all_reduce_per_device,
        "flops_per_device": run_state.flops_per_device,
        "train_subnets": {"loss": list(loss_S)},
    }
    if with_link:
        row["simulated_seconds"] = _simulated(run_state)
    return row


def _simulated(run_state: RunState) -> float:
    """Seconds of training, as if every worker had its own device, and of sending over the link."""
    return run_state.device_seconds + run_state.link_seconds


def summarise(
    run_state: RunState, history: Sequence[Row], task: Task, costs: Costs, phase: int
) -> dict[str, Any]:
    """The summary of a finished run. What was not measured is None.

    Args:
      run_state: at the end of the run.
      history: all rows; the last one is evaluated.
      task: gives the selection of an evaluation, and the directions and units of metrics.
      costs: of the phase whose workers have the fewest parameters.
      phase: the index of that phase.
    """
    measured = run_state.measured.get(str(phase), {})
    with_link = "simulated_seconds" in history[-1]
    return {
        "status": "finished",
        "selection": task.selects._asdict(),
        "metrics": {name: info._asdict() for name, info in task.metric_info.items()},
        "last": {"round": history[-1]["round"], **evaluation(history[-1])},
        "selected": {"round": run_state.selected_round, **run_state.selected},
        **_progress(run_state),
        "simulated_seconds": _simulated(run_state) if with_link else None,
        "parameters": {"model": costs.model_parameters, "per_device": costs.device_parameters},
        **_communication(run_state, costs, measured),
        **_computation(run_state, measured),
    }


def _progress(run_state: RunState) -> dict[str, Any]:
    return {
        "rounds": run_state.round,
        "samples_seen": run_state.samples_seen,
        "local_steps": run_state.local_steps,
        "failed_workers": run_state.failed_workers,
        "seconds": run_state.seconds,
        "compile_seconds": run_state.compile_seconds,
        "evaluation_seconds": run_state.evaluation_seconds,
        "seconds_per_local_step": run_state.seconds / run_state.local_steps,
    }


def _communication(
    run_state: RunState, costs: Costs, measured: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "bytes_per_device": run_state.bytes_per_device,
        "evaluation_bytes_per_device": run_state.evaluation_bytes_per_device,
        "other_bytes_per_device": run_state.other_bytes_per_device,
        "bytes_per_sync_per_device": {
            "arithmetic": costs.bytes_per_sync,
            "compiled": measured.get("bytes_per_sync"),
            "lower_bound": costs.lower_bound,
            "all_reduce": costs.all_reduce,
        },
        "bytes_per_sync_per_leaf": {leaf.name: leaf._asdict() for leaf in costs.leaves},
        "seconds_per_sync": measured.get("seconds_per_sync"),
    }


def _computation(run_state: RunState, measured: Mapping[str, Any]) -> dict[str, Any]:
    flops = run_state.flops_per_device
    return {
        "flops_per_device": flops,
        "energy_estimate_joules_per_device": flops and energy(flops, run_state.bytes_per_device),
        "flops_per_local_step_per_device": measured.get("flops_per_local_step"),
        "memory_bytes_per_device": measured.get("memory"),
    }
