"""Finished runs, read from workdirs and from kept tables, and written to kept tables.

A kept table is a file of JSON lines, `results/TABLE.jsonl`. Its first line has what all runs have
in common:

    {"command": "ist-jax sweep ...", "config": {...}, "environment": {...}, "paper": {...}}

`command` has one command per line. `paper`, which may be absent, is {label of a row: value that the
paper reports}. Every other line is a run:

    {"config": {...}, "environment": {...}, "curve": {...}, "summary": {...}, "resumes": [...]}

`config` and `environment` hold the fields in which runs differ. `curve` has a column for every
measured name, nested names joined by a slash ("test/accuracy"); a column has one value per
evaluation. `summary` is the run's summary.json. `resumes`, which may be absent, lists the rounds
after which the environment changed.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ist_jax.cli.config import FIELDS, PATHS, Config, ConfigError
from ist_jax.cli.records.record import RESUMES, as_json
from ist_jax.core.task import Selection
from ist_jax.tasks.classification import METRIC_INFO
from ist_jax.training.environment import CANNOT_BE_REBUILT
from ist_jax.training.files import json_content, json_text, write_whole
from ist_jax.training.loggers import flatten

# Numbers of every evaluation and of the summary; evaluations in the summary.
_NUMBERS = ("samples_seen", "seconds", "bytes_per_device")
_PICKED = ("last", "selected")
# the errors that reading a damaged record raises
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Run(NamedTuple):
    """One finished run.

    Attributes:
      config: value of every field, by dotted name.
      curve: column -> one value per evaluation, None where it was not measured.
      summary: the content of summary.json.
      environment: revision, versions, machine and data.
      resumes: {"round", "environment"} for every time the run resumed in a changed environment.
    """

    config: dict[str, Any]
    curve: dict[str, list[Any]]
    summary: dict[str, Any]
    environment: Mapping[str, Any] = MappingProxyType({})
    resumes: tuple[dict[str, Any], ...] = ()

    @property
    def selection(self) -> Selection:
        """How the best evaluation was selected."""
        return Selection(**self.summary["selection"])

    @property
    def unit(self) -> str:
        """The unit of the metric that selected it, as in `MetricInfo`.

        Records of earlier versions have no units; all of them are of classifiers.
        """
        described, metric = self.summary.get("metrics"), self.selection.metric
        if described is None:
            return METRIC_INFO[metric].unit if metric in METRIC_INFO else ""
        return described[metric]["unit"] if metric in described else ""


class Kept(NamedTuple):
    """The content of a kept table.

    Attributes:
      command: the commands that made the runs, one per line.
      runs: in the order of the file.
      paper: label of a row -> the value that the paper reports.
    """

    command: str
    runs: list[Run]
    paper: Mapping[str, float] = MappingProxyType({})


def find(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All workdirs of finished runs in or below `folders`."""
    return sorted({file.parent for folder in folders for file in folder.rglob("summary.json")})


def unfinished(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """All workdirs of unfinished runs in or below `folders`."""
    begun = {file.parent for folder in folders for file in folder.rglob("config.json")}
    return sorted(workdir for workdir in begun if not (workdir / "summary.json").exists())


def check_recorded(workdir: pathlib.Path) -> None:
    """Raises ConfigError if an earlier version of `ist_jax.run` wrote the workdir."""
    if (workdir / "summary.json").is_file() and not (workdir / "config.json").is_file():
        raise ConfigError(
            f"{workdir} was written from Python by an earlier version, and has no config.json: "
            "train it again in another workdir"
        )


def _defaults(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields that a record lacks; {} for a run from Python, which has few fields."""
    return {} if CANNOT_BE_REBUILT in environment else as_json(Config())


def read_workdir(workdir: pathlib.Path) -> Run:
    """The finished run in `workdir`. Raises ConfigError if its record is damaged or too old."""
    check_recorded(workdir)
    try:
        content = json_content((workdir / "config.json").read_text())
        config = _defaults(content["environment"]) | content["config"]
        summary = json_content((workdir / "summary.json").read_text())
        _refuse_earlier(workdir, content, summary)
        run = Run(config, _curve(workdir), summary, content["environment"], _resumes(workdir))
        return _checked(run)
    except ConfigError:
        raise
    except (OSError, *_DAMAGED) as error:
        raise ConfigError(
            f"{workdir} does not hold a complete run record ({type(error).__name__}: {error}): "
            "run it again in another workdir"
        ) from error


def _refuse_earlier(
    workdir: pathlib.Path, content: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Raises ConfigError if an earlier version of this software wrote the records."""
    known = FIELDS if _defaults(content["environment"]) else content["config"]
    unknown = [f"config.json has {name}" for name in content["config"] if name not in known]
    if "status" in summary and "selection" not in summary:
        unknown.append("summary.json has no selection")
    if unknown:
        raise ConfigError(
            f"{workdir} holds a run of an earlier version of ist_jax ({unknown[0]}): report it "
            "with that version, or train it again in another workdir"
        )


def _curve(workdir: pathlib.Path) -> dict[str, list[Any]]:
    """The columns of the evaluated rounds, from the rows of all rounds in metrics.jsonl."""
    rows = [json_content(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [dict(flatten(row)) for row in rows if "test" in row]
    names = dict.fromkeys(name for row in evaluated for name in row)
    return {name: [row.get(name) for row in evaluated] for name in names}


def _resumes(workdir: pathlib.Path) -> tuple[dict[str, Any], ...]:
    file = workdir / RESUMES
    return tuple(map(json_content, file.read_text().splitlines())) if file.exists() else ()


def _checked(run: Run) -> Run:
    """`run`. Raises KeyError, TypeError or ValueError if a value that tables need is wrong."""
    if wrong := [value for value in _needed(run) if not _is_number(value)]:
        raise ValueError(f"{wrong[0]!r} is not a finite number")
    if not isinstance(run.config["method"], str):
        raise ValueError(f"method is a name, not {run.config['method']!r}")
    if run.selection.best not in ("max", "min") or not isinstance(run.unit, str):
        raise ValueError(
            f"a metric is best at its max or min and its unit is text, not {run.selection.best!r} "
            f"and {run.unit!r}"
        )
    return run


def _needed(run: Run) -> list[Any]:
    """The numbers that tables and pictures need. Raises KeyError if one is missing."""
    summary, metric = run.summary, run.selection.metric
    simulated = [summary.get("simulated_seconds"), *run.curve.get("simulated_seconds", ())]
    return [
        *(summary[name] for name in (*_NUMBERS, "compile_seconds")),
        summary["parameters"]["per_device"],
        *(summary[at][split][metric] for at in _PICKED for split in ("validation", "test")),
        *(value for name in (*_NUMBERS, f"test/{metric}") for value in run.curve[name]),
        *(value for value in simulated if value is not None),
    ]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def read(file: pathlib.Path) -> Kept:
    """The content of a kept table. Raises ConfigError if the file is missing or damaged."""
    try:
        return _parsed(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: there is no such table") from error
    except (OSError, *_DAMAGED) as error:
        raise ConfigError(
            f"{file} is not a kept table ({type(error).__name__}: {error})"
        ) from error


def _parsed(text: str) -> Kept:
    """The kept table in a file's text. Raises one of `_DAMAGED` if the text is no table."""
    # not `splitlines`: a name may contain another line separator, such as U+2028
    first, *rest = [json_content(line) for line in text.split("\n") if line]
    runs = [_checked(_run(first, line)) for line in rest]
    paper = {str(label): float(value) for label, value in first.get("paper", {}).items()}
    return Kept(str(first["command"]), runs, paper)


def _run(first: Mapping[str, Any], line: Mapping[str, Any]) -> Run:
    """The run of a line. A field that is newer than the table has its default."""
    environment = first["environment"] | line["environment"]
    config = _defaults(environment) | first["config"] | line["config"]
    return Run(config, line["curve"], line["summary"], environment, tuple(line.get("resumes", ())))


def write(file: pathlib.Path, kept: Kept) -> None:
    """Writes a kept table. Paths of data and runs are shortened to their last parts.

    Raises:
      ConfigError: the table could not be read back. The file stays as it is.
    """
    configs = [_without_folders(run.config) for run in kept.runs]
    environments = [run.environment for run in kept.runs]
    first = {
        "command": kept.command,
        "config": _common(configs),
        "environment": _common(environments),
    }
    lines = [first | ({"paper": dict(kept.paper)} if kept.paper else {})]
    for run, config in zip(kept.runs, configs):
        line = {
            "config": _rest(config, first["config"]),
            "environment": _rest(run.environment, first["environment"]),
            "curve": run.curve,
            "summary": run.summary,
        }
        lines.append(line | ({"resumes": list(run.resumes)} if run.resumes else {}))
    try:
        text = "".join(_line(line) for line in lines)
        _parsed(text)
    except _DAMAGED as error:
        raise ConfigError(f"{file} stays as it is: a run cannot be kept ({error})") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)


def _line(content: Mapping[str, Any]) -> str:
    return json_text(content, separators=(",", ":"), ensure_ascii=False) + "\n"


def _without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: pathlib.PurePath(config[name]).name for name in PATHS if name in config}
    return {**config, **names}


def _common(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that have one value in all of `parts`."""
    return {n: v for n, v in parts[0].items() if all(n in p and p[n] == v for p in parts)}


def _rest(part: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in common}


def keep(folders: Sequence[pathlib.Path], file: pathlib.Path, command: str = "") -> int:
    """Adds the finished runs in or below `folders` to the kept table `file`; returns how many.

    Args:
      folders: workdirs, or folders of workdirs.
      file: the table; made if it does not exist.
      command: the command that made the runs. A new table needs it.

    Raises:
      ConfigError: a new table has no command, or two runs have the same configuration.
    """
    kept = read(file) if file.exists() else Kept("", [])
    if not (command or kept.command):
        raise ConfigError(f"{file} is a new table: give the command of its runs, --command '...'")
    runs = [read_workdir(workdir) for workdir in find(folders)]
    _check_distinct(file, [*kept.runs, *runs])
    commands = dict.fromkeys([*kept.command.splitlines(), *command.splitlines()])
    write(file, kept._replace(command="\n".join(commands), runs=[*kept.runs, *runs]))
    return len(runs)


def _check_distinct(file: pathlib.Path, runs: Sequence[Run]) -> None:
    configs = [json_text(_without_folders(run.config)) for run in runs]
    for run, config in zip(runs, configs):
        if configs.count(config) > 1:
            name = f"method={run.config['method']}, seed={run.config['seed']}"
            raise ConfigError(f"{file}: two runs have the same configuration ({name}): keep one")
