"""Command lines: typed flags, parsed by tyro, and errors of one line.

tyro splits the command line and prints help. A value that it cannot convert stays text. So the
checks of `fields` report every error, whether the value comes from a flag, a file or Python.
"""

import contextlib
import dataclasses
import io
import itertools
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import check, checked, fields
from ist_jax.cli.config.files import ConfigFile
from ist_jax.cli.config.schema import Config
from ist_jax.cli.config.types import PathText

T = TypeVar("T")
Flags = TypeVar("Flags", bound="ConfigFlags")
REGISTRY = ConstructorRegistry()


@dataclasses.dataclass(frozen=True)
class ConfigFlags:
    """The flags of every command that reads a configuration."""

    config: PathText = ""
    """Config file (.py with get_config(), and functions for parts that it builds itself), or the
    config.json of a run."""


@dataclasses.dataclass(frozen=True)
class _Both(Generic[T]):
    flags: Annotated[T, tyro.conf.arg(name="")]
    fields: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def parse(kind: type[T], argv: Sequence[str], description: str | None) -> T:
    """The flags of a command.

    Args:
      kind: a frozen dataclass; every field has a default.
      argv: the command's name, then its arguments.
      description: for --help.

    Raises:
      ConfigError: an argument is wrong. The message is one line.
      SystemExit: --help was printed.
    """
    prog, arguments = f"ist-jax {argv[0]}", argv[1:]
    parsed, unknown = _tyro(kind, prog, arguments, description=description)
    _refuse(unknown, fields(kind))
    return _checked_flags(parsed)


def flags_only(kind: type[T], argv: Sequence[str]) -> T:
    """The flags of a command, ignoring all other arguments in `argv`. Raises ConfigError."""
    flags, _ = _tyro(kind, f"ist-jax {argv[0]}", argv[1:], add_help=False)
    return _checked_flags(flags)


def parse_with_config(
    kind: type[Flags], argv: Sequence[str], description: str | None
) -> tuple[Flags, Config]:
    """The flags of a command, and the configuration of its file, overridden by the command line.

    `get_config` of a config file is called with the defaults of its parameters, and again if the
    command line has other values for them. Arguments and errors are those of `parse`.
    """
    prog, arguments, flags = f"ist-jax {argv[0]}", argv[1:], flags_only(kind, argv)
    file = ConfigFile(flags.config) if flags.config else None
    config = file.config() if file else Config()
    read = lambda base: _both(kind, prog, arguments, description, base)
    flags, given = read(config)
    if file is None:
        raise ConfigError("--config FILE is missing; --help lists the options")
    chosen = {name: getattr(given, name) for name in file.parameters}
    if chosen != file.parameters:
        _, given = read(file.config(chosen))
    return flags, given


def _both(
    kind: type[Flags], prog: str, arguments: Sequence[str], description: str | None, base: Config
) -> tuple[Flags, Config]:
    both = _Both[kind]
    default = both(kind(), base)
    parsed, unknown = _tyro(both, prog, arguments, description=description, default=default)
    _refuse(unknown, {**fields(kind), **fields()})
    return _checked_flags(parsed.flags), checked(parsed.fields)


def _tyro(
    kind: type[T], prog: str, arguments: Sequence[str], **options: Any
) -> tuple[T, Sequence[str]]:
    """The parsed flags, and the arguments that are none of them."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                kind, prog=prog, args=arguments, registry=REGISTRY, return_unknown_args=True,
                **options,
            )  # fmt: skip
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(_without_box(printed.getvalue())) from end


def _without_box(text: str) -> str:
    """The error message that tyro prints in a box: the lines from the title to a rule or border."""
    inside = [line.strip("│ ") for line in text.splitlines()[1:]]
    is_line = lambda line: not line.startswith(("─", "╰"))
    return " ".join(itertools.takewhile(is_line, inside))


def _refuse(unknown: Sequence[str], known: typing.Iterable[str]) -> None:
    if not unknown:
        return
    name = unknown[0].split("=", 1)[0].lstrip("-").replace("-", "_")
    if not unknown[0].startswith("-"):
        raise ConfigError(f"unexpected argument {unknown[0]!r}: write options as --NAME VALUE")
    # earlier versions wrote --config.seed
    hint = nearest(name.removeprefix("config."), known) or " (--help lists the options)"
    raise ConfigError(f"--{name} is no option{hint}")


def _checked_flags(flags: T) -> T:
    """`flags` with values that `check` has converted. Raises ConfigError if one is wrong."""
    named = fields(type(flags)).items()
    option = lambda name: "--" + name.replace("_", "-")
    values = {name: check(option(name), field, getattr(flags, name)) for name, field in named}
    return dataclasses.replace(cast(Any, flags), **values)


@REGISTRY.primitive_rule
def _keep_text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How tyro converts numbers, booleans and choices: invalid values stay text, for `check`."""
    kind = info.type
    if typing.get_origin(kind) is Literal:
        return _spec("{" + ",".join(typing.get_args(kind)) + "}", str, str)
    if kind is bool:
        return _spec("{True,False}", bool, _boolean)
    return _spec(kind.__name__.upper(), kind, kind) if kind in (int, float) else None


def _spec(metavar: str, kind: type, convert: Callable[[str], Any]) -> PrimitiveConstructorSpec:
    def from_text(words: list[str]) -> Any:
        try:
            return convert(words[0])
        except ValueError:
            return words[0]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=from_text,
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
