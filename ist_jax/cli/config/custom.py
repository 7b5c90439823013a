"""Functions of a config file that build a part of a run: its data, model, task or optimizer.

Besides `get_config()`, a config file in Python may define any of

    get_dataset(config) -> ist_jax.data.Dataset
    get_decomposition(config, spec, num_subnets) -> ist_jax.decompositions.Decomposition
    get_task(config, spec) -> ist_jax.tasks.Task
    get_optimizer(config, total_steps) -> optax.GradientTransformation

`config` is the run's Config, and `spec` the `ist_jax.data.Spec` of its data. `num_subnets` is S, or
1 if the method trains full models. `total_steps` counts the local steps of a worker in the run.

If a file defines get_dataset, get_decomposition or get_optimizer, `data.name`, `model.name` or
`optimizer.name` is "custom", unless the command line chooses another. The other fields of these
groups are recorded as they are given; the function may use them. Every command builds the run with
these functions, from the file that the field `builders` names. A record keeps the SHA-256 of that
file and of the modules beside it that it imports at its top. A run resumes only with these files.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import flatten, replace, values
from ist_jax.cli.config.schema import Config
from ist_jax.core.errors import first_line

T = TypeVar("T")
CUSTOM = "custom"  # the name of a part that a function of the config file builds


class Function(NamedTuple):
    """A function that a config file may define.

    Attributes:
      parameters: their names.
      field: has the value "custom" if the function builds its part; None: a function that is
        defined always builds its part.
    """

    parameters: tuple[str, ...]
    field: str | None


FUNCTIONS = {
    "get_dataset": Function(("config",), "data.name"),
    "get_decomposition": Function(("config", "spec", "num_subnets"), "model.name"),
    "get_task": Function(("config", "spec"), None),
    "get_optimizer": Function(("config", "total_steps"), "optimizer.name"),
}


class Module:
    """An executed Python file.

    Attributes:
      path: of the file, as given.
      get_config: the function of that name; None if there is none.
      functions: those of `FUNCTIONS` that it defines.
      digests: name -> SHA-256 of the file, and of the modules beside it that it imports.

    Raises:
      ConfigError: the file cannot be executed, or a function is misspelt or has other parameters.
    """

    def __init__(self, path: str):
        self.path, self._file = path, pathlib.Path(path)
        name = f"config file {os.path.abspath(path)}"
        spec = importlib.util.spec_from_file_location(name, self._file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look up string annotations
        with self.reraise_with_path(), _importable(self._file.parent) as neighbours:
            spec.loader.exec_module(module)
        self._files = (self._file, *neighbours)
        self.digests = self._digests()
        named = {name: value for name, value in vars(module).items() if callable(value)}
        self.get_config: Callable[..., Any] | None = named.get("get_config")
        for name, value in named.items():
            if getattr(value, "__module__", None) == module.__name__:
                self._check_name(name)
        self.functions = {name: named[name] for name in FUNCTIONS if name in named}
        for name, function in self.functions.items():
            self._check_parameters(name, function)

    def _digests(self) -> dict[str, str]:
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in self._files}

    def is_current(self) -> bool:
        """Whether the files have the content that was executed. Raises OSError if one is gone."""
        return self.digests == self._digests()

    def _check_name(self, name: str) -> None:
        known = ("get_config", *FUNCTIONS)
        parts = [other.removeprefix("get_") for other in known]
        is_like_one = name.startswith("get_") or name.partition("_")[2] in parts
        if name not in known and is_like_one and not name.startswith("_"):
            hint = nearest(name, known) or ":"
            raise ConfigError(
                f"{self.path}: {name}() is not a function of a config file{hint} the functions are "
                f"{', '.join(known)}"
            )

    def _check_parameters(self, name: str, function: Callable[..., Any]) -> None:
        wanted = FUNCTIONS[name].parameters
        try:
            inspect.signature(function).bind(*wanted)
        except TypeError as error:
            raise ConfigError(
                f"{self.path}: {name}{inspect.signature(function)} is called with "
                f"({', '.join(wanted)}): give it these parameters"
            ) from error

    def call(self, name: str, returns: type[T], *arguments: Any) -> T:
        """The result of the function `name`, which must be a `returns`. Raises ConfigError."""
        with self.reraise_with_path(f"{name}(): "), _importable(self._file.parent):
            made = self.functions[name](*arguments)
        if not isinstance(made, returns):
            raise ConfigError(
                f"{self.path}: {name}() must return a {returns.__module__}.{returns.__qualname__}, "
                f"not {type(made).__name__}"
            )
        return made

    @contextlib.contextmanager
    def reraise_with_path(self, what: str = "") -> Iterator[None]:
        """Turns every error inside into a ConfigError that names the file and its line."""
        start = f"--config {self.path}: "
        try:
            yield
        except ConfigError as error:
            raise ConfigError(start + what + str(error).removeprefix(start)) from error
        except Exception as error:  # whatever a user's file raises
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f.lineno for f in frames if f.filename == os.path.abspath(self._file)]
            where = f" (line {lines[-1]})" if lines else ""
            text = f"{type(error).__name__}: {first_line(error)}{where}"
            raise ConfigError(f"{start}{what}{text}") from error


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[list[pathlib.Path]]:
    """Lets a file import modules in its folder, and unloads them afterwards.

    Otherwise a module of the same name in another folder could not be imported. Yields a list, to
    which the files of these modules are added at the end.
    """
    before, known, imported = list(sys.path), set(sys.modules), []
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield imported
    finally:
        sys.path[:] = before
        neighbours = {file.stem: file for file in sorted(folder.glob("*.py"))}
        for name in sorted(neighbours.keys() & (set(sys.modules) - known)):
            imported.append(neighbours[name])
            del sys.modules[name]


_EXECUTED: dict[str, Module] = {}  # by path, so that a file is executed once


def module_at(path: str) -> Module:
    """The module of a file; a changed file is executed again. Raises ConfigError or OSError."""
    if path not in _EXECUTED or not _EXECUTED[path].is_current():
        pathlib.Path(path).read_bytes()  # raises OSError if there is none
        _EXECUTED[path] = Module(path)
    return _EXECUTED[path]


def module_of(config: Config) -> Module | None:
    """The file `config.builders`; None if it is ''. Raises ConfigError if it cannot be read."""
    try:
        return module_at(config.builders) if config.builders else None
    except OSError as error:
        raise ConfigError(
            f"builders={config.builders}: this file builds parts of the run, but cannot be read "
            f"({error.strerror}): name it by --builders FILE"
        ) from error


def builds(config: Config, name: str) -> bool:
    """Whether the function `name` of the config's file builds its part."""
    field = FUNCTIONS[name].field
    if field is not None:
        return values(config)[field] == CUSTOM
    module = module_of(config)
    return module is not None and name in module.functions


def build(config: Config, name: str, returns: type[T], *arguments: Any) -> T:
    """The part that the function `name` of the config's file builds.

    Raises:
      ConfigError: the function fails, or returns something else.
    """
    module = module_of(config)
    assert module is not None and name in module.functions  # `check` has made sure of it
    return module.call(name, returns, config, *arguments)


def with_builders(config: Config, module: Module) -> Config:
    """`config`, in which the parts that functions of `module` build are named "custom"."""
    if not module.functions:
        return config
    fields = [FUNCTIONS[name].field for name in module.functions]
    names = {field: CUSTOM for field in fields if field is not None}
    if "model.name" in names:
        names["decomposition"] = "auto"
    return replace(config, **flatten({"builders": module.path} | names))


def check(config: Config) -> None:
    """Checks that there is a function for every part named "custom". Raises ConfigError."""
    module = module_of(config)
    functions: Mapping[str, Any] = {} if module is None else module.functions
    for name, (parameters, field) in FUNCTIONS.items():
        if field is not None and values(config)[field] == CUSTOM and name not in functions:
            problem = f"{config.builders} lacks it" if config.builders else "none is given"
            raise ConfigError(
                f"{field}={CUSTOM} needs {name}({', '.join(parameters)}) in a config file, but "
                f"{problem}: define it, or choose another {field}"
            )
    if module is not None and not functions:
        raise ConfigError(
            f"builders={config.builders} defines none of {', '.join(FUNCTIONS)}: leave it out"
        )


def digests_of(config: Config) -> dict[str, str]:
    """Name -> SHA-256 of the files that build parts of the run; {} if the library builds all."""
    module = module_of(config)
    return {} if module is None else module.digests
