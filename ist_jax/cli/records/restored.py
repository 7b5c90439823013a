"""A run's algorithm and state, from its workdir; nothing in there is changed."""

import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax

from ist_jax.cli import builders
from ist_jax.cli.config import Config, ConfigError, resolve
from ist_jax.cli.config_files import from_json, one_line
from ist_jax.cli.validation import validate
from ist_jax.core.processes import fetch
from ist_jax.data import Spec
from ist_jax.decompositions import Decomposition
from ist_jax.methods import Method as Algorithm
from ist_jax.methods import Start, State
from ist_jax.tasks import Task
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.run_state import RunState
from ist_jax.training.workdir import WorkdirError


class Restored(NamedTuple):
    """What a run's newest undamaged checkpoint holds, laid out for this machine.

    Attributes:
      config: of the run.
      spec: of its data.
      fingerprint: of its data.
      split: the model and how the method splits it.
      task: of the run.
      algorithm: of the phase that the run was in.
      state: of the algorithm.
      round: after which it was saved.
      in_other_phase: whether that was in the warm-up or the dense phase, which train whole models.
    """

    config: Config
    spec: Spec
    fingerprint: str
    split: Decomposition
    task: Task
    algorithm: Algorithm
    state: State
    round: int
    in_other_phase: bool


def _data_of(workdir: pathlib.Path) -> tuple[Spec, str]:
    try:
        data = json.loads((workdir / "config.json").read_text())["environment"]["data"]
        return Spec.of(data["spec"]), data["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{workdir}: its config.json does not describe the data ({one_line(error)})"
        ) from error


def on_this_machine(config: Config) -> Config:
    """The config of a run that may have been trained elsewhere. Raises ConfigError if it is none that could be run."""
    return validate(dataclasses.replace(config, placement="auto", num_devices=0, init_from=""))


def restore(workdir: str | pathlib.Path) -> Restored:
    """The run in `workdir`, wherever it was trained; this machine's devices are used.

    Raises:
      ConfigError: it holds no run, or none of its checkpoints can be read.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "config.json").is_file():
        raise ConfigError(f"{workdir} holds no run: there is no config.json")
    config = on_this_machine(resolve(from_json(workdir / "config.json")))
    spec, fingerprint = _data_of(workdir)
    phases, task = builders.phases(config, spec)
    try:
        checkpoints = Checkpoints(
            workdir / "checkpoints", lambda line: print(line, file=sys.stderr), tidy=False
        )
        book: dict[str, Any] | None = checkpoints.run_state()
        if book is None:
            raise ConfigError(f"{workdir} holds no checkpoint: let its run go on until it has one")
        saved = RunState.from_json(book, len(phases))
        algorithm = phases[saved.phase].method
        state = checkpoints.restore(algorithm.fresh(jax.random.key(0)), algorithm.shapes())
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except WorkdirError as error:
        raise ConfigError(f"{workdir}: {error}") from error
    split = builders.decomposition(config, spec)
    own = int(config.warmup_fraction > 0)  # the method's first phase
    other = not own <= saved.phase <= own + len(config.local_steps_schedule)
    return Restored(config, spec, fingerprint, split, task, algorithm, state, saved.round, other)


def start_from(workdir: str | pathlib.Path) -> tuple[Start, dict[str, Any]]:
    """What another run starts from, and how its record names it.

    The start is the whole model's parameters, with a new optimizer state and schedule.

    Raises:
      ConfigError: as of `restore`.
    """
    run = restore(workdir)
    lie = jax.tree.map(
        run.algorithm.start_sharding, run.algorithm.shapes()
    )  # in parts: no device holds them all
    params = jax.tree.map(fetch, jax.jit(run.algorithm.params, out_shardings=lie)(run.state))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(leaf.tobytes())
    return Start(params), {
        "method": run.config.method,
        "round": run.round,
        "fingerprint": digest.hexdigest(),
    }
