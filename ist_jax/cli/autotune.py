"""What placement `auto` stands for on one device: the faster one, measured with the run's own model and data.

Single products of a subnetwork after another's, or all at once as batched ones: which is faster depends on sizes, on the
model and on the machine. A run that is too short to be worth two compilations takes the rule of `make_placement`.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping

import jax
from jax.errors import JaxRuntimeError

from ist_jax.cli import builders
from ist_jax.cli.architectures import ARCHITECTURES, decomposition_of
from ist_jax.cli.benchmarks.timing import median_seconds, round_of
from ist_jax.cli.config import Config
from ist_jax.cli.config_files import one_line
from ist_jax.cli.validation import placement_of
from ist_jax.data import Dataset
from ist_jax.training.loop import Phase, phase_steps

WORTH = 2000  # local steps of a run whose placement is measured
_STEPS, _REPEATS = (
    5,
    3,
)  # of the shorter one of two rounds, whose difference is of local steps alone


def resolve_placement(config: Config, dataset: Dataset, workdir: pathlib.Path) -> Config:
    """`config` with the placement that 'auto' stands for.

    What is decided is written to config.json before any training, and a run that goes on keeps it; two fresh runs may decide
    differently, and are then equal to rounding only.

    Args:
      config: validated.
      dataset: of the run.
      workdir: of the run; what its config.json says wins, also that nothing was measured.
    """
    if config.placement != "auto" or placement_of(config).mesh is not None:
        return config
    if (kept := _kept(workdir)) is not None:
        return config if kept == "auto" else dataclasses.replace(config, placement=kept)
    if ARCHITECTURES[decomposition_of(config)].batched(config) == "never":
        return config
    phases, _ = builders.phases(config, dataset.spec)
    if phases[0].method.num_workers == 1 or sum(map(phase_steps, phases)) < WORTH:
        return config
    try:
        seconds = _seconds(config, dataset)
    except JaxRuntimeError as error:  # a model that fills the memory
        print(f"placement is not measured ({one_line(error)})", file=sys.stderr)
        return config
    shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    chosen = min(seconds, key=seconds.__getitem__)
    print(
        f"placement {chosen}: a local step of all workers, with its share of a round, takes {shown}",
        file=sys.stderr,
    )
    return dataclasses.replace(config, placement=chosen)


def _kept(workdir: pathlib.Path) -> str | None:
    """The placement on one device of a run that goes on, 'auto' for that of the rule; None for a run that starts."""
    try:
        placement = json.loads((workdir / "config.json").read_text())["config"]["placement"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return placement if placement in ("looped", "vmapped") else "auto"


def _seconds(config: Config, dataset: Dataset) -> dict[str, float]:
    """Placement -> seconds of a local step of all workers, the round's exchange shared out, in the phase of most samples."""
    found = {
        name: _phase(dataclasses.replace(config, placement=name), dataset)
        for name in ("looped", "vmapped")
    }
    lengths = (_STEPS, 3 * _STEPS)
    held = [
        found["looped"].algorithm.fresh(jax.random.key(0))
    ]  # one state, which every round hands to the next
    rounds = [
        round_of(phase.method, dataset, steps, held)
        for phase in found.values()
        for steps in lengths
    ]
    seconds = iter(median_seconds([made.run for made in rounds], _REPEATS))
    return {
        name: _of_a_step(dict(zip(lengths, seconds)), phase.local_steps)
        for name, phase in found.items()
    }


def _of_a_step(seconds: Mapping[int, float], local_steps: int) -> float:
    """Seconds of a local step in rounds of `local_steps`, of those of a short and a long round.

    A round is its exchange and its steps, so that the difference of two rounds is of steps alone.
    """
    (short, of_short), (long, of_long) = sorted(seconds.items())
    step = max(of_long - of_short, 0) / (long - short)  # below 0: noise
    exchange = max(of_short - short * step, 0)
    return step + exchange / local_steps


def _phase(config: Config, dataset: Dataset) -> Phase:
    phases, _ = builders.phases(config, dataset.spec)
    return max(phases, key=lambda phase: phase.samples)
