"""The record of a run: what it was made from, so that it can be traced and made again."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import jax

from experiments.config import Config, ConfigError
from experiments.validation import flat_values
from ist_jax.data import Dataset

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
MAY_CHANGE = ("placement", "num_devices")  # of a run that goes on


def _git_revision() -> str | None:
    here = pathlib.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(dataset: Dataset) -> dict[str, Any]:
    """Revision, versions, devices and the fingerprint of the data."""
    return {
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(terse=True),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "train_examples": dataset.num_train},
    }


def _as_json(config: Config) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat_values(config).items()}


def start(workdir: pathlib.Path, config: Config, dataset: Dataset) -> None:
    """Writes config.json, or checks that a run that goes on has the data it was started on."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        content = {"config": _as_json(config), "environment": environment(dataset)}
        if not (workdir / "config.json").exists():  # a run that goes on keeps what it was started with
            unfinished = workdir / "config.json.tmp"
            unfinished.write_text(json.dumps(content, indent=2) + "\n")
            unfinished.replace(workdir / "config.json")
        started = json.loads((workdir / "config.json").read_text())["environment"]["data"]
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    if started["fingerprint"] != dataset.fingerprint:
        raise ConfigError(f"--workdir={workdir} was started on other data ({started['name']}): use another workdir")


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
    """Whether `workdir` holds this run, finished.

    Raises:
      ConfigError: it holds a run of another configuration; the message names the differing fields.
    """
    file = workdir / "config.json"
    if not file.exists():
        return False
    old, new = json.loads(file.read_text())["config"], _as_json(config)
    if differing := [name for name in new if old.get(name) != new[name] and name not in MAY_CHANGE]:
        shown = "; ".join(f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in differing)
        raise ConfigError(f"--workdir={workdir} holds a run of another configuration ({shown}): use another workdir")
    return (workdir / "summary.json").exists()
