"""Reads configurations from config files (.py) and from the config.json of runs."""

import contextlib
import functools
import importlib.util
import inspect
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import checked, from_values, replace
from ist_jax.cli.config.schema import Config
from ist_jax.core.errors import first_line


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
        if file.suffix == ".json":
            self._make: Callable[..., Any] = functools.partial(from_json, file)
        elif file.suffix == ".py":
            self._make = self._get_config(file)
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
        with self._reraise_with_path():
            config = self._make(**chosen)
            if not isinstance(config, Config):
                raise TypeError("get_config() must return an ist_jax.cli.config.Config")
            return replace(checked(config), **chosen)

    def _get_config(self, file: pathlib.Path) -> Callable[..., Any]:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with self._reraise_with_path(), _importable(file.parent):
            spec.loader.exec_module(module)
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

    @contextlib.contextmanager
    def _reraise_with_path(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            start = f"--config {self.path}: "
            raise ConfigError(start + str(error).removeprefix(start)) from error
        except Exception as error:  # whatever a user's file raises
            what = f"{type(error).__name__}: {first_line(error)}"
            raise ConfigError(f"--config {self.path}: {what}") from error


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """Lets a config file import modules in its folder, and unloads them afterwards.

    Otherwise a module of the same name in another folder could not be imported.
    """
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before
        neighbours = {file.stem for file in folder.glob("*.py")}
        for name in neighbours & (set(sys.modules) - known):
            del sys.modules[name]


def from_json(file: pathlib.Path) -> Config:
    """The configuration in a run's config.json. Raises ConfigError if it holds none."""
    try:
        flat = dict(json.loads(file.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not the config.json of a run ({first_line(error)})"
        ) from error
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
