"""Reads configurations from config files (.py) and from the config.json of runs."""

import functools
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ist_jax.cli.config.custom import Module, module_at, with_builders
from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import checked, from_values, replace
from ist_jax.cli.config.schema import Config
from ist_jax.core.errors import first_line
from ist_jax.training.environment import CANNOT_BE_REBUILT


class ConfigFile:
    """A config file: its `get_config`, and the top-level fields that are its parameters.

    Attributes:
      parameters: name -> default.

    Raises:
      ConfigError: there is no such file, or it is not a config file.
    """

    def __init__(self, path: str):
        self.path = path
        file = pathlib.Path(path)
        try:
            if not file.is_file():
                raise ConfigError(f"--config {path}: there is no such file")
        except OSError as error:  # a name that no file can have
            raise ConfigError(f"--config {path}: {error.strerror}") from error
        self._module: Module | None = None
        if file.suffix == ".json":
            self._make: Callable[..., Any] = functools.partial(from_json, file)
        elif file.suffix == ".py":
            self._module = module_at(path)
            self._make = self._get_config(self._module)
        else:
            raise ConfigError(
                f"--config {path}: a config file is a .py file with get_config(), or the "
                "config.json of a run"
            )
        signature = inspect.signature(self._make).parameters.values()
        self.parameters = {parameter.name: parameter.default for parameter in signature}
        self._check_parameters()

    def config(self, given: Mapping[str, Any] | None = None) -> Config:
        """The configuration for these values of `get_config`'s parameters. Raises ConfigError."""
        chosen = self.parameters | dict(given or {})
        if self._module is None:
            return replace(checked(self._make()), **chosen)
        with self._module.reraise_with_path():
            config = self._make(**chosen)
            if not isinstance(config, Config):
                raise TypeError("get_config() must return an ist_jax.cli.config.Config")
            return with_builders(replace(checked(config), **chosen), self._module)

    def _get_config(self, module: Module) -> Callable[..., Any]:
        if module.get_config is None:
            raise ConfigError(f"--config {self.path}: it defines no get_config()")
        return module.get_config

    def _check_parameters(self) -> None:
        known = [name for name in vars(Config()) if isinstance(getattr(Config(), name), str | int)]
        for name, default in self.parameters.items():
            if name not in known:
                raise ConfigError(
                    f"--config {self.path}: the parameter {name} of get_config() is no top-level "
                    f"field{nearest(name, known)}"
                )
            if default is inspect.Parameter.empty:
                raise ConfigError(
                    f"--config {self.path}: the parameter {name} of get_config() needs a default"
                )


def from_json(file: pathlib.Path) -> Config:
    """The configuration in a run's config.json. Raises ConfigError if it holds none."""
    try:
        content = json.loads(file.read_text())
        flat, made_from = dict(content["config"]), dict(content.get("environment", {}))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not the config.json of a run ({first_line(error)})"
        ) from error
    if why := made_from.get(CANNOT_BE_REBUILT):
        raise ConfigError(f"{file} is of a run that was {why}")
    return from_record(flat, str(file))


def from_record(flat: Mapping[str, Any], place: str) -> Config:
    """The configuration with the values in a record of a run; errors start with `place`.

    Raises:
      ConfigError: a value is wrong, or a field has another name in this version.
    """
    try:
        return from_values(flat)
    except ConfigError as error:
        raise ConfigError(
            f"{place}: {error}; a run of an earlier version has to be trained again"
        ) from error
