"""The record of a run: its configuration and environment, from which it can be repeated."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ist_jax.analysis.machine import available_memory_bytes, cores, processor
from ist_jax.cli.config import FIELDS, PATHS, Config, ConfigError, values
from ist_jax.cli.experiment import Experiment
from ist_jax.core.processes import OtherProcessError, all_succeed, is_first
from ist_jax.training.checkpoint import committed_rounds
from ist_jax.training.files import json_text, write_whole
from ist_jax.training.loggers import rows_until
from ist_jax.training.workdir import STARTS_AGAIN, WorkdirError, is_locked
from ist_jax.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("scikit-learn", "pillow", "tensorflow-datasets"),  # which read data
)
RESUMES = "resumes.jsonl"  # beside config.json: the rounds after which a run's environment changed
# parts of the environment that are noted if they differ when a run resumes
TRACED = ("git_revision", "python", "packages", "machine", "devices", "placement")
MAY_CHANGE = ("placement", "num_devices")  # fields that may differ when a run resumes


def git_revision() -> str | None:
    """The commit of this code, with '-dirty' if it has local changes; None if it is unknown."""
    here = pathlib.Path(__file__)

    def git(*words: str) -> str:
        options = dict(cwd=here.parent, capture_output=True, text=True, check=True)
        return subprocess.run(["git", *words], **options).stdout  # pyright: ignore

    try:
        # fails if this file is only installed inside a repository, and not part of it
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip()
    except (OSError, subprocess.CalledProcessError):
        return _installed_revision()


def _installed_revision() -> str | None:
    """The commit that pip installed this file from (`pip install git+...`)."""
    try:
        installed = importlib.metadata.distribution("ist_jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    place = pathlib.Path(str(installed.locate_file("ist_jax/cli/records/record.py")))
    if place.resolve() != pathlib.Path(__file__).resolve():
        return None
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id")


def environment(experiment: Experiment, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The environment of a run: revision, versions, machine, start time, placement and data.

    Args:
      experiment: the run, with its data.
      start: the origin of its first parameters, if another run trained them.
    """
    dataset = experiment.data
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
        "placement": experiment.placement.name,
        "num_workers": experiment.num_workers,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "spec": dataset.spec._asdict(),
            "notes": dict(dataset.notes),
            "warnings": list(dataset.warnings),
        },
        "start": dict(start or {}),
    }


def as_json(config: Config) -> dict[str, Any]:
    """All values by dotted name, for JSON. Paths are made absolute."""
    flat: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values(config).items()
    }
    return flat | {name: _absolute(flat[name]) for name in PATHS}


def _absolute(path: str) -> str:
    return path if not path or "://" in path else os.path.abspath(path)


def start(
    workdir: pathlib.Path, experiment: Experiment, start: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json. If there is one, checks that it is of this run, which then resumes.

    Args:
      workdir: of the run; made if it is missing.
      experiment: the run, with its data.
      start: the origin of its first parameters, if another run trained them.

    Raises:
      ConfigError: the workdir has another configuration or other data, or has checkpoints and no
        config.json.
      WorkdirError: the workdir cannot be written.
    """
    config, made_from = experiment.config, environment(experiment, start)
    begun = (workdir / "config.json").exists()
    try:
        all_succeed(lambda: _start(workdir, config, made_from) if is_first() else None)
        # every process checks its own configuration and data
        all_succeed(lambda: _check(workdir, config, made_from))
        all_succeed(lambda: _resume(workdir, made_from) if begun and is_first() else None)
    except OtherProcessError as error:
        raise WorkdirError(str(error)) from error


@contextlib.contextmanager
def _reraise_as_workdir_error(workdir: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


def _start(workdir: pathlib.Path, config: Config, made_from: Mapping[str, Any]) -> None:
    with _reraise_as_workdir_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / "config.json").exists():  # a run that resumes keeps its config.json
            return
        if committed_rounds(workdir / "checkpoints"):
            raise ConfigError(
                f"--workdir {workdir} holds checkpoints and no config.json: use another workdir"
            )
        content = {"config": as_json(config), "environment": dict(made_from)}
        unfinished = workdir / f"config.json.{os.getpid()}"
        write_whole(unfinished, json_text(content, indent=2) + "\n")
        _rename_once(unfinished, workdir / "config.json")


def _resume(workdir: pathlib.Path, made_from: Mapping[str, Any]) -> None:
    """Notes a changed environment when a run resumes; prints a message if it has no checkpoint."""
    rounds, noted = committed_rounds(workdir / "checkpoints"), workdir / RESUMES
    if not rounds and not (workdir / "lock").exists():  # with a lock, `Workdir` prints it
        print(f"{workdir}: {STARTS_AGAIN}", file=sys.stderr)
    known = dict(_read(workdir)["environment"])
    for line in rows_until(noted, sys.maxsize):
        known |= line["environment"] if isinstance(line.get("environment"), dict) else {}
    differing = {name: made_from[name] for name in TRACED if made_from[name] != known.get(name)}
    if rounds and differing and not is_locked(workdir):
        what = " and ".join(differing)
        print(f"{workdir}: resumes with another {what}, noted in {noted.name}", file=sys.stderr)
        with _reraise_as_workdir_error(workdir), noted.open("a") as opened:
            opened.write(json_text({"round": rounds[-1], "environment": differing}) + "\n")


def _check(workdir: pathlib.Path, config: Config, made_from: Mapping[str, Any]) -> None:
    _check_config(workdir, config)
    started = _read(workdir)["environment"]["data"]
    if started["fingerprint"] != made_from["data"]["fingerprint"]:
        raise ConfigError(
            f"--workdir {workdir} was started on other data ({started['name']}): "
            "use another workdir"
        )


def _rename_once(file: pathlib.Path, target: pathlib.Path) -> None:
    """Renames `file` to `target` unless that exists; runs may do this at the same moment."""
    try:
        os.link(file, target)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not target.exists():
            file.replace(target)
    file.unlink(missing_ok=True)


def _read(workdir: pathlib.Path) -> dict[str, Any]:
    file = workdir / "config.json"
    try:
        content = json.loads(file.read_text())
        _ = content["config"]["method"], content["environment"]["data"]["fingerprint"]
        return content
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{file} is not the config.json of a run ({type(error).__name__}: {error}): "
            "use another workdir"
        ) from error


def _check_config(workdir: pathlib.Path, config: Config) -> None:
    old, new = _read(workdir)["config"], as_json(config)
    if unknown := [name for name in old if name not in FIELDS]:
        raise ConfigError(
            f"--workdir {workdir} holds a run of an earlier version (its config.json has "
            f"{', '.join(unknown)}): use another workdir"
        )
    old = as_json(Config()) | old  # a field that is newer than the run has its default
    old |= {name: _absolute(str(old[name])) for name in PATHS}
    if differing := [name for name in new if old[name] != new[name] and name not in MAY_CHANGE]:
        shown = "; ".join(f"{name} was {old[name]!r}, is {new[name]!r}" for name in differing)
        raise ConfigError(
            f"--workdir {workdir} holds a run of another configuration ({shown}): "
            "use another workdir"
        )


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
    """Whether `workdir` holds this run and the run is finished.

    Raises:
      ConfigError: the workdir has another configuration; the message names the differing fields.
    """
    if not (workdir / "config.json").exists():
        return False
    _check_config(workdir, config)
    try:
        return json.loads((workdir / "summary.json").read_text())["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):  # if it is damaged, it is written again
        return False
