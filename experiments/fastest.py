"""What placement `auto` stands for on one device: the faster one, measured with the run's own model and data.

Single products of a subnetwork after another's, or all at once as batched ones: which is faster depends on sizes, on the
model and on the machine. A run that is too short to be worth two compilations takes the rule of `make_placement`.
"""

import dataclasses
import json
import pathlib
import sys

from jax.errors import JaxRuntimeError

from experiments import build
from experiments.config import Config
from experiments.config_files import one_line
from experiments.timing import Round, median_seconds, round_of
from experiments.validation import placement_of
from ist_jax.data import Dataset
from ist_jax.loop import phase_steps

WORTH = 2000  # local steps of a run whose placement is measured
_STEPS, _REPEATS = 5, 3


def settled(config: Config, dataset: Dataset, workdir: pathlib.Path) -> Config:
    """`config` with the placement that 'auto' stands for, which a run that goes on keeps.

    Args:
      config: validated.
      dataset: of the run.
      workdir: of the run; what its config.json says wins.
    """
    if config.placement != "auto" or placement_of(config).mesh is not None:
        return config
    if kept := _kept(workdir):
        return dataclasses.replace(config, placement=kept)
    phases, _ = build.phases(config, dataset.spec)
    if phases[0].algorithm.num_workers == 1 or sum(map(phase_steps, phases)) < WORTH:
        return config
    try:
        seconds = _seconds(config, dataset)
    except JaxRuntimeError as error:  # two states of a model that fills the memory
        print(f"placement is not measured ({one_line(error)})", file=sys.stderr)
        return config
    shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    chosen = min(seconds, key=seconds.__getitem__)
    print(f"placement {chosen}: in short rounds a local step of all workers takes {shown}", file=sys.stderr)
    return dataclasses.replace(config, placement=chosen)


def _kept(workdir: pathlib.Path) -> str:
    """The placement on one device of a run that goes on, '' if there is none."""
    try:
        placement = json.loads((workdir / "config.json").read_text())["config"]["placement"]
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    return placement if placement in ("looped", "vmapped") else ""


def _seconds(config: Config, dataset: Dataset) -> dict[str, float]:
    """Placement -> seconds of a local step of all workers, in the phase of most samples."""
    rounds = {name: _round(dataclasses.replace(config, placement=name), dataset) for name in ("looped", "vmapped")}
    seconds = median_seconds([made.run for made in rounds.values()], _REPEATS)
    return {name: value / made.steps for (name, made), value in zip(rounds.items(), seconds)}


def _round(config: Config, dataset: Dataset) -> Round:
    phases, _ = build.phases(config, dataset.spec)
    longest = max(phases, key=lambda phase: phase.samples)
    return round_of(longest.algorithm, dataset, min(longest.local_steps, _STEPS))
