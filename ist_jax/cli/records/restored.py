"""Reads a run's experiment and state from its workdir, which is not changed."""

import hashlib
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax

from ist_jax.cli.config import Config, ConfigError, from_json, replace
from ist_jax.cli.experiment import Experiment, resolve
from ist_jax.cli.records.record import check_builders
from ist_jax.cli.records.results import check_recorded
from ist_jax.cli.validation import validate
from ist_jax.core.errors import first_line
from ist_jax.core.processes import fetch
from ist_jax.data import Spec
from ist_jax.methods import Method, Start, State
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.run_state import RunState
from ist_jax.training.workdir import WorkdirError


class Restored(NamedTuple):
    """A run as its newest undamaged checkpoint has it, on this machine.

    Attributes:
      experiment: of the run, without its data.
      fingerprint: of the run's data.
      method: of the phase that the run was in.
      state: of the method.
      round: after which the checkpoint was saved.
      in_other_phase: whether that was in the warm-up or the dense phase, which train full models.
    """

    experiment: Experiment
    fingerprint: str
    method: Method
    state: State
    round: int
    in_other_phase: bool


def _data_of(workdir: pathlib.Path) -> tuple[Spec, str]:
    try:
        data = json.loads((workdir / "config.json").read_text())["environment"]["data"]
        return Spec.from_json(data["spec"]), data["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{workdir}: its config.json does not describe the data ({first_line(error)})"
        ) from error


def on_this_machine(config: Config) -> Config:
    """The config of a run that was trained on any machine, validated for this one.

    Raises:
      ConfigError: the configuration cannot run here.
    """
    return validate(replace(config, placement="auto", num_devices=0, init_from=""))


def restore(workdir: str | pathlib.Path, builders: str = "") -> Restored:
    """The run in `workdir`, on this machine's devices, wherever it was trained.

    Args:
      workdir: of the run.
      builders: where the run's `builders` file is now; '' if it has not moved.

    Raises:
      ConfigError: the workdir holds no run, or no checkpoint that can be read; or the file that
        builds parts of the run is missing or has changed.
    """
    workdir = pathlib.Path(workdir).expanduser()
    check_recorded(workdir)
    if not (workdir / "config.json").is_file():
        raise ConfigError(
            f"{workdir} holds no run: there is no config.json (runs of a sweep are in its folders)"
        )
    recorded = from_json(workdir / "config.json")
    config = on_this_machine(replace(recorded, builders=builders or recorded.builders))
    spec, fingerprint = _data_of(workdir)
    check_builders(workdir, config)
    experiment = resolve(config, spec=spec)
    try:
        saved, state = _newest(workdir, experiment)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except WorkdirError as error:
        raise ConfigError(f"{workdir}: {error}") from error
    method = experiment.phases[saved.phase].method
    other = not experiment.is_method_phase(saved.phase)
    return Restored(experiment, fingerprint, method, state, saved.round, other)


def _newest(workdir: pathlib.Path, experiment: Experiment) -> tuple[RunState, State]:
    say = lambda line: print(line, file=sys.stderr)
    checkpoints = Checkpoints(workdir / "checkpoints", say, tidy=False)
    kept: dict[str, Any] | None = checkpoints.run_state()
    if kept is None:
        raise ConfigError(f"{workdir} holds no checkpoint: resume the run until it has one")
    saved = RunState.from_json(kept, len(experiment.phases))
    method = experiment.phases[saved.phase].method
    return saved, checkpoints.restore(method.fresh(jax.random.key(0)), method.shapes())


def start_from(workdir: str | pathlib.Path) -> tuple[Start, dict[str, Any]]:
    """The full model's parameters, as the start of another run, and their origin for its record.

    The optimizer's state and schedules start anew.

    Raises:
      ConfigError: as `restore`.
    """
    run = restore(workdir)
    # sharded: no device may have room for all of them
    shardings = jax.tree.map(run.method.start_sharding, run.method.shapes())
    original_order = jax.jit(run.method.params, out_shardings=shardings)
    params = jax.tree.map(fetch, original_order(run.state))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(leaf.tobytes())
    return Start(params), {
        "method": run.experiment.config.method,
        "round": run.round,
        "fingerprint": digest.hexdigest(),
    }
