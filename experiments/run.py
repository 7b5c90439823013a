"""Trains one configuration: python -m experiments.run --config=FILE [--config.x=y ...] --workdir=DIR

FILE is a config file (.py, with get_config()) or the config.json of another run. Exit status 0: trained, or
already finished; 1: training diverged, or cannot go on; 2: the configuration or the data are wrong.
"""

import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import build, record, report
from experiments.config import FIELDS, Config, ConfigError, defaults, described, flatten, nearest, resolve
from experiments.validation import validate
from ist_jax.data import DataError
from ist_jax.loop import NonFiniteLossError, Phase, Results, ResumeError, phase_steps, run


class Command(NamedTuple):
    """A parsed command line."""

    config: Config
    workdir: pathlib.Path


def load_config(path: str) -> ml_collections.ConfigDict:
    """The ConfigDict of a config file or of a run's config.json."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise ConfigError(f"--config={path}: there is no such file")
    if file.suffix == ".json":
        return _from_json(file)
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={path}: a config file is a .py file with get_config(), or a run's config.json")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # whatever a file of the user's raises
        raise ConfigError(f"--config={path}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict) or "per_method" not in config:
        raise ConfigError(f"--config={path}: get_config() returns what experiments.config.defaults() returned, edited")
    return config


def _from_json(file: pathlib.Path) -> ml_collections.ConfigDict:
    try:
        values = json.loads(file.read_text())["config"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"--config={file}: not the config.json of a run ({_one_line(error)})") from error
    config = defaults()
    for name in values:
        if name not in FIELDS:
            raise ConfigError(f"--config={file}: {name} is no field{nearest(name, FIELDS)}")
    try:
        config.update_from_flattened_dict({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--config={file}: {_one_line(error)}") from error
    return config


def _one_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _config_argument(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --config, and the other arguments."""
    rest, path = [], ""
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            path = next(arguments, "")
        elif argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    if not path:
        raise ConfigError("--config=FILE is missing; --help lists what can be set")
    return path, rest


def _check_names(argv: Sequence[str], known: Sequence[str]) -> None:
    for argument in argv:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith("config.") and name.removeprefix("config.") not in known:
            raise ConfigError(f"--{name} is no field{nearest(name.removeprefix('config.'), known)}")


def parse(argv: Sequence[str]) -> Command:
    """The validated configuration and the workdir of a command line without the program's name.

    Raises:
      ConfigError: with one line on what is wrong.
    """
    path, rest = _config_argument(argv)
    config = load_config(path)
    _check_names(rest, list(flatten(config.to_dict())))
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["run", *rest])
    flags.DEFINE_string("workdir", "", "where the run's records go", flag_values=values)
    try:
        others = values(["run", *rest])[1:]
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(_one_line(error)) from error
    if others:
        raise ConfigError(f"unexpected argument {others[0]!r}; options are --config.x=y and --workdir=DIR")
    if not values.workdir:
        raise ConfigError("--workdir=DIR is missing: where the run's records go")
    overrides = config_flags.get_override_values(values["config"])
    return Command(validate(resolve(config, overrides)), pathlib.Path(values.workdir))


def train(command: Command) -> Results | None:
    """Runs a configuration and writes its records; None if the workdir holds it finished."""
    config, workdir = command
    if record.is_finished(workdir, config):
        print(f"{workdir}: finished already", file=sys.stderr)
        return None
    dataset = build.dataset(config)
    phases, task = build.phases(config, dataset)
    _say_rounding(config, dataset.num_train, phases)
    record.start(workdir, config, dataset)
    results = run(phases, task, dataset, build.loop_config(config), workdir)
    report.curves([workdir], workdir / "curves.png")
    return results


def _say_rounding(config: Config, num_train: int, phases: Sequence[Phase]) -> None:
    """Nothing is rounded silently."""
    planned = config.epochs * num_train
    actual = sum(phase_steps(p) * p.algorithm.num_workers * p.algorithm.batch_size for p in phases)
    if actual != planned:
        print(f"epochs={config.epochs:g} are {planned:,.1f} samples, rounded up to {actual:,} in whole steps", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the program's name first."""
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        print(f"{__doc__}\nFields:\n{described()}")
        return 0
    try:
        results = train(parse(argv[1:]))
    except (ConfigError, DataError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (NonFiniteLossError, ResumeError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    if results is not None:
        _print_summary(results.summary)
    return 0


def _print_summary(summary: dict[str, Any]) -> None:
    print(
        f"test accuracy {summary['test_accuracy']:.4f} (at best validation {summary['test_accuracy_at_best_validation']:.4f}), "
        f"{summary['samples_seen']:,} samples in {summary['seconds']:.1f} s of training, "
        f"{summary['bytes_per_device'] / 1e6:,.1f} MB sent per device"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
