"""The record of a run: its configuration and environment, from which it can be repeated."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ist_jax.cli.config import FIELDS, PATHS, Config, ConfigError, custom, values
from ist_jax.cli.experiment import Experiment
from ist_jax.core.processes import OtherProcessError, all_succeed, is_first
from ist_jax.training.checkpoint import committed_rounds
from ist_jax.training.environment import CANNOT_BE_REBUILT, about_data, code_and_machine
from ist_jax.training.files import json_text, write_whole
from ist_jax.training.loggers import rows_until
from ist_jax.training.workdir import STARTS_AGAIN, WorkdirError, is_locked

RESUMES = "resumes.jsonl"  # beside config.json: the rounds after which a run's environment changed
# parts of the environment that are noted if they differ when a run resumes
TRACED = ("git_revision", "python", "packages", "machine", "devices", "placement")
# fields that may differ when a run resumes; the content of `builders` may not (`check_builders`)
MAY_CHANGE = ("placement", "num_devices", "builders")


def environment(experiment: Experiment, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The environment of a run: revision, versions, machine, start time, placement and data.

    Args:
      experiment: the run, with its data.
      start: the origin of its first parameters, if another run trained them.
    """
    return code_and_machine() | {
        "placement": experiment.placement.name,
        "num_workers": experiment.num_workers,
        "data": about_data(experiment.data),
        "start": dict(start or {}),
        "builders": custom.digests_of(experiment.config),
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
        _ = dict(content["environment"].get("builders", {}))
        return content
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{file} is not the config.json of a run ({type(error).__name__}: {error}): "
            "use another workdir"
        ) from error


def check_builders(workdir: pathlib.Path, config: Config) -> None:
    """Raises ConfigError if the files that build parts of a run differ from those it began with.

    They are compared by content, since the checkpoints of a run belong to the model that it built.
    """
    old = dict(_read(workdir)["environment"].get("builders", {}))
    new = custom.digests_of(config)
    differs = lambda name: old.get(name) != new.get(name)
    if changed := sorted(filter(differs, old.keys() | new.keys())):
        raise ConfigError(
            f"{workdir} holds a run that began with another {' and '.join(changed)} "
            f"(builders={config.builders!r}): restore its content, or use another workdir"
        )


def _check_config(workdir: pathlib.Path, config: Config) -> None:
    content = _read(workdir)
    if why := content["environment"].get(CANNOT_BE_REBUILT):
        raise ConfigError(f"--workdir {workdir} holds a run that was {why}")
    old, new = content["config"], as_json(config)
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
    check_builders(workdir, config)


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
