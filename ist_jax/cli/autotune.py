"""Placement autotune: the faster of looped and vmapped, measured with the run's model and data.

Whether single products of one subnetwork after another, or batched products of all at once, are
faster depends on sizes, on the model and on the machine.
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

_STEPS, _REPEATS = 5, 3  # of the shorter of two rounds; their difference is local steps alone


def resolve_placement(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
    """`experiment` with the placement that 'autotune' stands for.

    The choice is written to config.json before any training, and a resumed run keeps it. Two fresh
    runs may choose differently, and then agree to rounding only.

    Args:
      experiment: with any placement; one that was not asked to be measured is returned as it is.
      workdir: of the run; the choice in its config.json wins.
    """
    if experiment.config.placement != "autotune":
        return experiment
    chosen = _kept(workdir) or _measured(experiment)
    config = replace(experiment.config, placement=chosen)
    return resolve(config, dataset=experiment.dataset)


def _kept(workdir: pathlib.Path) -> str | None:
    """The placement that a resumed run was started with; None for a run that starts."""
    try:
        placement = json.loads((workdir / "config.json").read_text())["config"]["placement"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return placement if placement in ("looped", "vmapped") else "auto"


def _measured(experiment: Experiment) -> str:
    """The faster placement; 'auto' where there is nothing to choose from, or it does not fit."""
    one_device = experiment.placement.mesh is None and experiment.num_workers > 1
    batched = ARCHITECTURES[experiment.config.decomposition].batched(experiment.config)
    if not one_device or batched == "never":
        return "auto"
    try:
        seconds = _seconds(experiment)
    except JaxRuntimeError as error:  # a model that fills the memory
        print(f"placement is not measured ({first_line(error)})", file=sys.stderr)
        return "auto"
    shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    chosen = min(seconds, key=seconds.__getitem__)
    print(
        f"placement {chosen}: a local step of all workers, with its share of a round, takes "
        f"{shown}",
        file=sys.stderr,
    )
    return chosen


def _seconds(experiment: Experiment) -> dict[str, float]:
    """Placement -> seconds of a local step of all workers, in the phase of most samples.

    The round's exchange is shared out over its local steps.
    """
    phases = {
        name: resolve(replace(experiment.config, placement=name), experiment.dataset).longest
        for name in ("looped", "vmapped")
    }
    lengths = (_STEPS, 3 * _STEPS)
    state = [phases["looped"].method.fresh(jax.random.key(0))]  # one, used by every round
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
    """Seconds of a local step in rounds of `local_steps`, from those of a short and a long round.

    A round is its exchange and its steps, so the difference of two rounds is steps alone.
    """
    (short, of_short), (long, of_long) = sorted(seconds.items())
    step = max(of_long - of_short, 0) / (long - short)  # below 0: noise
    exchange = max(of_short - short * step, 0)
    return step + exchange / local_steps
