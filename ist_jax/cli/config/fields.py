"""Generic operations on configurations: fields by dotted name, checks by type, changed copies."""

import dataclasses
import functools
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, cast

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.schema import Config
from ist_jax.cli.config.types import IsPath, Range

T = TypeVar("T")
KINDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "integers such as 256 256",
}


class Field(NamedTuple):
    """A field of a dataclass of settings.

    Attributes:
      kind: int, float, bool, str, or tuple of `item`. Any other type is not checked.
      item: type of the entries of a tuple.
      choices: the values that it may have; () if any.
      range: its bounds, or None.
      default: its default, which is always allowed.
      is_path: whether it is a path on this machine, or a tuple of such paths.
    """

    kind: Any
    item: Any
    choices: tuple[str, ...]
    range: Range | None
    default: Any
    is_path: bool = False


def _field(hint: Any, default: Any) -> Field:
    extras = getattr(hint, "__metadata__", ())
    bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
    hint = typing.get_args(hint)[0] if extras else hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return Field(str, None, arguments, None, default)
    if origin is tuple:
        is_path = arguments[0] is pathlib.Path
        return Field(tuple, arguments[0], (), None, default, is_path)
    kind = arguments[0] if arguments else hint  # X | None
    is_path = kind is pathlib.Path or any(isinstance(extra, IsPath) for extra in extras)
    return Field(kind, None, (), bounds, default, is_path)


@functools.cache
def fields(kind: type = Config, prefix: str = "") -> dict[str, Field]:
    """The fields of a dataclass of settings and of its nested dataclasses, by dotted name."""
    by_name: dict[str, Field] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            by_name |= fields(hint, name + ".")
        else:
            by_name[name] = _field(hint, field.default)
    return by_name


FIELDS = fields()
METHOD_NAMES = FIELDS["method"].choices
PATHS = tuple(name for name, field in FIELDS.items() if field.is_path)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names: {'model': {'norm': x}} becomes {'model.norm': x}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        is_group = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat


def values(config: Config) -> dict[str, Any]:
    """All values of a configuration by dotted name."""
    return flatten(dataclasses.asdict(config))


def replace(config: Config, **changes: Any) -> Config:
    """A copy with other values; a group takes a mapping: `replace(c, model={"hidden": (8,)})`.

    Raises:
      ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    return from_values(values(config) | flatten(changes))


def from_values(flat: Mapping[str, Any]) -> Config:
    """The configuration with these values by dotted name; other fields have their defaults.

    Raises:
      ConfigError: a name is unknown, or a value has the wrong type or is out of range.
    """
    for name in flat:
        if name not in FIELDS:
            hint = nearest(name, FIELDS) or " (--help lists the fields)"
            raise ConfigError(f"{name} is no field{hint}")
    return _build(Config, {name: check(name, FIELDS[name], value) for name, value in flat.items()})


def _build(kind: type[T], flat: Mapping[str, Any], prefix: str = "") -> T:
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        name = prefix + field.name
        if dataclasses.is_dataclass(field.default):
            given[field.name] = _build(type(field.default), flat, name + ".")
        else:
            given[field.name] = flat.get(name, field.default)
    return kind(**given)


def checked(config: Config) -> Config:
    """`config` with every value converted to its type, such as integers to floats.

    Raises:
      ConfigError: a value has the wrong type or is out of range; the message names the first.
    """
    return from_values(values(config))


def check(name: str, field: Field, value: Any) -> Any:
    """`value` converted to the type of `field`: integers to floats, lists to tuples.

    A leading "~" of a path is expanded, so that a run and its record have the same path.

    Raises:
      ConfigError: a value of the wrong type, not among the choices, or out of range.
    """
    value = _converted(name, field, value)
    if field.choices and value not in field.choices:
        raise not_among(name, value, field.choices)
    if field.range is not None and not _is_within(value, field.range):
        raise ConfigError(f"{name} is {_bounds(field.range)}, not {value!r}")
    if field.is_path and isinstance(value, tuple):
        return tuple(_expanded(name, path) for path in value)
    return _expanded(name, value) if field.is_path and value is not None else value


def _expanded(name: str, path: T) -> T:
    """A path (text or pathlib.Path) with a leading "~" or "~USER" replaced by the home folder.

    Raises:
      ConfigError: the path is a URL, or there is no such user.
    """
    text = os.path.expanduser(str(path)) if path else ""
    if "://" in text:
        raise ConfigError(f"{name} is a path of this machine, not {text!r}: mount or copy it")
    if text.startswith("~"):
        raise ConfigError(
            f"{name}={text!r} names no user of this machine: write the whole path of a folder of "
            "that name"
        )
    return cast(Any, type(path))(text) if text else path


def not_among(name: str, value: str, choices: typing.Sequence[str], where: str = "") -> ConfigError:
    """The error for a value that is not among the choices of its field."""
    hint = nearest(value, choices)
    return ConfigError(f"{name} is one of {', '.join(choices)}{where}, not {value!r}{hint}")


def _converted(name: str, field: Field, value: Any) -> Any:
    if field.kind is tuple and isinstance(value, list | tuple):
        if field.item is not int or all(type(item) is int for item in value):
            return tuple(value)
        value = " ".join(map(str, value))
    elif field.kind is float and type(value) is int:
        return float(value)
    elif type(value) is field.kind or field.kind not in KINDS or value is field.default:
        return value
    raise ConfigError(f"{name} is {KINDS[field.kind]}, not {value!r}")


def _is_within(value: float, bounds: Range) -> bool:
    low, high, closed = bounds
    return low <= value <= high if closed else low < value < high


def _bounds(bounds: Range) -> str:
    low, high, closed = bounds
    if closed:
        return f"from {low:g} to {high:g}"
    return f"between {low:g} and {high:g}, both excluded"
