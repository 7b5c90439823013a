"""Loggers for experiment trackers: trackio and Weights & Biases, each an extra of this package.

    pip install "ist_jax[trackio]"      ist_jax.run(..., loggers=[Trackio("project", workdir)])
    pip install "ist_jax[wandb]"        ist_jax.run(..., loggers=[WandB("project", workdir)])

A row is sent with its names joined by "/" ("test/accuracy") and its round as the step. The workdir
keeps the ID of the tracker's run, so that a resumed run continues it. A resumed run trains the
rounds after its checkpoint again, with the same results; they are not sent twice. A tracker that is
added later gets the earlier rows first.

With several processes, only the first one starts a tracker's run.

Each library reads its own environment variables, such as WANDB_MODE=offline or TRACKIO_DIR.
"""

import abc
import importlib
import json
import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ist_jax.core.processes import is_first
from ist_jax.training.files import json_text, write_whole
from ist_jax.training.loggers import Logger, Row, flatten, rows_until


class TrackerError(ValueError):
    """A tracker cannot be used: its package is missing, or it does not start."""


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrackerError(
            f"the logger {name!r} needs a package that is not installed ({error}): "
            f"pip install 'ist_jax[{name}]'"
        ) from error


class _Begun(NamedTuple):
    """What a tracker shows of a run.

    Attributes:
      project: name of the project.
      folder: the run's workdir; None: there is none.
      config: values, by name.
      title: the name of the workdir, or the run's ID without one.
      run_id: the ID under which a resumed run continues.
    """

    project: str
    folder: pathlib.Path | None
    config: dict[str, Any]
    title: str
    run_id: str


class _Tracker(abc.ABC):
    """What the trackers share.

    Args:
      project: name of the project, where the tracker shows runs together.
      workdir: of the run; None: nothing is kept, so that every run is a new one.
      config: values to show with the run, by name.
    """

    name = ""  # of the package

    def __init__(
        self,
        project: str = "ist_jax",
        workdir: str | pathlib.Path | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self._run: Any = None
        self._sent = 0  # rounds
        library = _imported(self.name)
        if not is_first():
            return
        folder = None if workdir is None else pathlib.Path(workdir).expanduser().absolute()
        rows = [] if folder is None else rows_until(folder / "metrics.jsonl", sys.maxsize)
        known = _run_id(folder, self.name)
        run_id = known or uuid.uuid4().hex[:12]
        title = run_id if folder is None else folder.name
        begun = _Begun(project, folder, dict(config or {}), title, run_id)
        try:
            self._run = self._start(library, begun)
        except Exception as error:  # for example, nobody has logged in
            raise TrackerError(f"the logger {self.name!r} does not start ({error})") from error
        if known:
            self._sent = rows[-1]["round"] if rows else 0
        elif folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{self.name}.json", json_text({"id": run_id}) + "\n")
        for row in rows:
            self.log(row)

    @abc.abstractmethod
    def _start(self, library: Any, begun: _Begun) -> Any:
        """The run of the library, new or continued: an object with `log` and `finish`."""

    def log(self, row: Row, text: str | None = None) -> None:
        if text is not None or row["round"] <= self._sent:
            return
        self._sent = row["round"]
        numbers = {name: v for name, v in flatten(row) if isinstance(v, int | float)}
        self._run.log(numbers, step=row["round"])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _run_id(folder: pathlib.Path | None, name: str) -> str | None:
    """The ID of the tracker's run that a workdir keeps; None if it keeps none."""
    try:
        kept = json.loads((folder / f"{name}.json").read_text()) if folder is not None else {}
        return str(kept["id"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Trackio(_Tracker):
    """Rows for trackio, which keeps them on this machine (`trackio show`) or in a Space."""

    name = "trackio"

    def _start(self, library: Any, begun: _Begun) -> Any:
        # trackio finds the run to continue by its name, which another workdir may have as well
        unique = begun.title if begun.folder is None else f"{begun.title}-{begun.run_id}"
        options = dict(project=begun.project, name=unique, config=begun.config)
        return library.init(**options, resume="allow")


class WandB(_Tracker):
    """Rows for Weights & Biases, plotted over the samples seen. Its files are in WORKDIR/wandb."""

    name = "wandb"

    def _start(self, library: Any, begun: _Begun) -> Any:
        if begun.folder is not None:
            begun.folder.mkdir(parents=True, exist_ok=True)
        run = library.init(
            project=begun.project,
            dir=None if begun.folder is None else str(begun.folder),
            config=begun.config,
            name=begun.title,
            id=begun.run_id,
            resume="allow",
            settings=library.Settings(console="off"),  # terminal output is not part of the results
        )
        run.define_metric("*", step_metric="samples_seen")
        return run


TRACKERS: dict[str, type[_Tracker]] = {kind.name: kind for kind in (Trackio, WandB)}


def check_trackers(names: Sequence[str]) -> None:
    """Raises TrackerError if a name is not a tracker's, or its package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(f"a logger is one of {', '.join(TRACKERS)}, not {name!r}")
        _imported(name)


def trackers(
    names: Sequence[str], project: str, workdir: pathlib.Path, config: Mapping[str, Any]
) -> list[Logger]:
    """The trackers of these names for a run in `workdir`; [] unless this is the first process.

    Raises:
      TrackerError: one does not start.
    """
    names = list(dict.fromkeys(names)) if is_first() else []
    return [TRACKERS[name](project, workdir, config) for name in names]
