"""What a record says about the origin of a run: the code, the machine and the data."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

from ist_jax.analysis.machine import available_memory_bytes, cores, processor
from ist_jax.data.base import Dataset
from ist_jax.methods import Method, Start
from ist_jax.training.config import LoopConfig, Phase, phase_steps
from ist_jax.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("scikit-learn", "pillow", "tensorflow-datasets"),  # which read data
)
# key of the environment: why the command line cannot rebuild the run
CANNOT_BE_REBUILT = "cannot_be_rebuilt"
FROM_PYTHON = (
    "trained by ist_jax.run from Python, and does not record how its model, task, data and "
    "optimizer are built: resume it with the same call in Python, and export its model with "
    "ist_jax.export.write(DIR, decomposition.full, results.params)"
)


def git_revision() -> str | None:
    """The commit of this code, with '-dirty' if it has local changes; None if it is unknown."""
    file = pathlib.Path(__file__)

    def git(*words: str) -> str:
        options = dict(cwd=file.parent, capture_output=True, text=True, check=True)
        return subprocess.run(["git", *words], **options).stdout  # pyright: ignore

    try:
        # fails if this file is only installed inside a repository, and not part of it
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip()
    except (OSError, subprocess.CalledProcessError):
        return _installed_revision()


def _installed_revision() -> str | None:
    """The commit that pip installed this file from (`pip install git+...`)."""
    try:
        installed = importlib.metadata.distribution("ist_jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    place = pathlib.Path(str(installed.locate_file("ist_jax/training/environment.py")))
    if place.resolve() != pathlib.Path(__file__).resolve():
        return None
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id")


def code_and_machine() -> dict[str, Any]:
    """Revision, versions, machine, devices and time."""
    return {
        "git_revision": git_revision(),
        "ist_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(terse=True),
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "memory_gb": round(available_memory_bytes() / 1e9, 1),
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "devices": [str(device.device_kind) for device in jax.devices()],
    }


def about_data(dataset: Dataset) -> dict[str, Any]:
    """The name, fingerprint, spec, notes and warnings of a data set."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "spec": dataset.spec._asdict(),
        "notes": dict(dataset.notes),
        "warnings": list(dataset.warnings),
    }


def record_from_python(
    phases: Sequence[Phase], dataset: Dataset, config: LoopConfig, start: Start | None
) -> dict[str, Any]:
    """The content of config.json for a run from Python, like that of `ist-jax run`.

    The configuration has the command line's fields that are known here, and `config.settings`. If
    phases differ in a field, it is that of the phase with the most samples.
    """
    longest = max(phases, key=lambda phase: phase.samples)
    method, num_train = longest.method, dataset.num_train
    samples = sum(phase_steps(phase) * phase.samples_per_step for phase in phases)
    known = {
        "method": config.name,
        "num_subnets": method.num_workers,
        "local_steps": longest.local_steps,
        "batch_size": method.batch_size,
        "epochs": samples / num_train,
        "seed": config.seed,
        "eval_every": config.eval_every,
        "checkpoint_every": config.checkpoint_every,
        "eval_batch_size": config.eval_batch_size,
        "calibration_examples": config.calibration_examples,
        "eval_subnets": config.eval_subnets,
        "time_syncs": config.time_syncs,
        "failures.rate": config.failures.rate,
        "failures.rounds": [round for round, _ in config.failures.schedule],
        "failures.workers": [worker for _, worker in config.failures.schedule],
        "data.name": dataset.name,
    }
    if config.link is not None:
        known["link.bandwidth"] = f"{8 * config.link.bandwidth:g}bps"
        known["link.latency"] = f"{config.link.latency:g}s"
    return {
        "config": known | dict(config.settings),
        "environment": code_and_machine()
        | {
            "placement": "sharded" if len(method.sharding.device_set) > 1 else None,
            "num_workers": method.num_workers,
            "data": about_data(dataset),
            "start": {} if start is None else {"round": int(start.round)},
            "builders": {},
            "phases": [_about_phase(phase.method, phase) for phase in phases],
            CANNOT_BE_REBUILT: FROM_PYTHON,
        },
    }


def _about_phase(method: Method, phase: Phase) -> dict[str, Any]:
    return {
        "method": type(method).__name__,
        "num_workers": method.num_workers,
        "batch_size": method.batch_size,
        "samples": phase.samples,
        "local_steps": phase.local_steps,
    }
