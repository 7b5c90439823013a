"""Reading configurations: config files (.py) and the config.json of runs, which is data and never code."""

import importlib.util
import json
import pathlib

import ml_collections

from ist_jax.cli.config import FIELDS, ConfigError, defaults, nearest


def load_config(path: str) -> ml_collections.ConfigDict:
    """The ConfigDict of a config file or of a run's config.json."""
    file = pathlib.Path(path)
    try:
        if not file.is_file():
            raise ConfigError(f"--config={path}: there is no such file")
    except OSError as error:  # no name of a file
        raise ConfigError(f"--config={path}: {error.strerror}") from error
    if file.suffix == ".json":
        return from_json(file)
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"--config={path}: a config file is a .py file with get_config(), or a run's config.json"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # whatever a file of the user's raises
        raise ConfigError(f"--config={path}: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict) or "per_method" not in config:
        raise ConfigError(
            f"--config={path}: get_config() returns what ist_jax.cli.config.defaults() returned, edited"
        )
    return config


def from_json(file: pathlib.Path) -> ml_collections.ConfigDict:
    """The ConfigDict of a run's config.json. Raises ConfigError: it is none, or has a field that is none."""
    try:
        values = dict(json.loads(file.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"--config={file}: not the config.json of a run ({one_line(error)})"
        ) from error
    config = defaults()
    for name in values:
        if name not in FIELDS:
            raise ConfigError(f"--config={file}: {name} is no field{nearest(str(name), FIELDS)}")
    try:
        config.update_from_flattened_dict(
            {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--config={file}: {one_line(error)}") from error
    return config


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
