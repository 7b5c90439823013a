"""placement=autotune: the faster of looped and vmapped, measured with the run's model and data.

Whether it is faster to compute the subnetworks one by one or all at once, in batched products,
depends on the model, its sizes and the machine.
"""

import json
import pathlib
import sys
from collections.abc import Mapping

import jax
from jax.errors import JaxRuntimeError

from ist_jax.cli.architectures import ARCHITECTURES
from ist_jax.cli.benchmarks.timing import median_seconds, round_of
from ist_jax.cli.config import replace
from ist_jax.cli.experiment import Experiment, resolve
from ist_jax.core.errors import first_line

_STEPS, _REPEATS = 5, 3  # of the shorter of the two rounds that are timed


def resolve_placement(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
    """`experiment` with the placement that 'autotune' stands for.

    The choice is written to config.json before training, and a resumed run keeps it. Two fresh runs
    may choose differently; their results then differ by rounding.

    Args:
      experiment: of the run. With any other placement, it is returned unchanged.
      workdir: of the run; a placement in its config.json is kept.
    """
    if experiment.config.placement != "autotune":
        return experiment
    chosen = _kept(workdir) or _measured(experiment)
    config = replace(experiment.config, placement=chosen)
    return resolve(config, dataset=experiment.dataset)


def _kept(workdir: pathlib.Path) -> str | None:
    """The placement with which a run was started; None for a run that starts now."""
    try:
        placement = json.loads((workdir / "config.json").read_text())["config"]["placement"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return placement if placement in ("looped", "vmapped") else "auto"


def _measured(experiment: Experiment) -> str:
    """The faster placement; 'auto' if there is no choice, or a round does not fit into memory."""
    one_device = experiment.placement.mesh is None and experiment.num_workers > 1
    batched = ARCHITECTURES[experiment.config.decomposition].batched(experiment.config)
    if not one_device or batched == "never":
        return "auto"
    try:
        seconds = _seconds(experiment)
    except JaxRuntimeError as error:  # out of memory
        print(f"placement is not measured ({first_line(error)})", file=sys.stderr)
        return "auto"
    shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    chosen = min(seconds, key=seconds.__getitem__)
    print(
        f"placement {chosen}: a local step of all workers, with its share of the exchange, takes "
        f"{shown}",
        file=sys.stderr,
    )
    return chosen


def _seconds(experiment: Experiment) -> dict[str, float]:
    """Placement -> seconds of a local step of all workers, in the phase with the most samples.

    A local step has an equal share of its round's exchange.
    """
    phases = {
        name: resolve(replace(experiment.config, placement=name), experiment.dataset).longest
        for name in ("looped", "vmapped")
    }
    lengths = (_STEPS, 3 * _STEPS)
    state = [phases["looped"].method.fresh(jax.random.key(0))]  # all rounds share one
    rounds = [
        round_of(phase.method, experiment.data, steps, state)
        for phase in phases.values()
        for steps in lengths
    ]
    seconds = iter(median_seconds([made.run for made in rounds], _REPEATS))
    return {
        name: _seconds_per_step(dict(zip(lengths, seconds)), phase.local_steps)
        for name, phase in phases.items()
    }


def _seconds_per_step(seconds: Mapping[int, float], local_steps: int) -> float:
    """Seconds of a local step in rounds of `local_steps` steps.

    Args:
      seconds: local steps -> seconds of a round, for two numbers of local steps. The rounds differ
        by their steps alone, since a round is an exchange and its steps.
      local_steps: J.
    """
    (short, short_seconds), (long, long_seconds) = sorted(seconds.items())
    step = max(long_seconds - short_seconds, 0) / (long - short)  # noise may make it negative
    exchange = max(short_seconds - short * step, 0)
    return step + exchange / local_steps
