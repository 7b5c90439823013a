"""Generic operations on configurations: fields by dotted name, checks by type, changed copies."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.schema import Config, Range

T = TypeVar("T")
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


class Field(NamedTuple):
    """One value of a configuration.

    Attributes:
      kind: int, float, bool, str, or tuple (of integers).
      choices: what it may be; () if anything.
      range: its bounds, or None.
      default: its default.
    """

    kind: type
    choices: tuple[str, ...]
    range: Range | None
    default: Any


def _field(kind: Any, default: Any) -> Field:
    bounds = [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Range)]
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if typing.get_origin(kind) is typing.Literal:
        return Field(str, typing.get_args(kind), None, default)
    return Field(typing.get_origin(kind) or kind, (), bounds[0] if bounds else None, default)


@functools.cache
def fields(kind: type = Config, prefix: str = "") -> dict[str, Field]:
    """The fields of a configuration class and of its groups, by dotted name."""
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
METHODS = FIELDS["method"].choices


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'model': {'norm': x}} as {'model.norm': x}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        is_group = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat


def values(config: Config) -> dict[str, Any]:
    """All values by dotted name."""
    return flatten(dataclasses.asdict(config))


def replace(config: Config, **changes: Any) -> Config:
    """A copy with other values; groups take a mapping: `replace(c, model={"hidden": (8,)})`.

    Raises:
      ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    return from_values(values(config) | flatten(changes))


def from_values(flat: Mapping[str, Any]) -> Config:
    """The configuration with these values by dotted name, and defaults. Raises ConfigError."""
    for name in flat:
        if name not in FIELDS:
            hint = nearest(name, FIELDS) or " (--help lists the fields)"
            raise ConfigError(f"{name} is no field{hint}")
    return _build(Config, {name: check_value(name, value) for name, value in flat.items()})


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
    """`config` with every value held to its type. Raises ConfigError: the first that breaks it."""
    return from_values(values(config))


def check_value(name: str, value: Any) -> Any:
    """`value` as the field of that dotted name takes it: integers as floats, lists as tuples.

    Raises:
      ConfigError: a value of the wrong type, not among the choices, or out of range.
    """
    field = FIELDS[name]
    value = _converted(name, field.kind, value)
    if field.choices and value not in field.choices:
        raise not_among(name, value, field.choices)
    if field.range is not None and not _is_within(value, field.range):
        raise ConfigError(f"{name} is {_bounds(field.range)}, not {value!r}")
    return value


def not_among(name: str, value: str, choices: typing.Sequence[str], where: str = "") -> ConfigError:
    """The error of a value that is not among the choices of its field."""
    hint = nearest(value, choices)
    return ConfigError(f"{name} is one of {', '.join(choices)}{where}, not {value!r}{hint}")


def _converted(name: str, kind: type, value: Any) -> Any:
    if kind is tuple:
        if isinstance(value, tuple | list) and all(type(item) is int for item in value):
            return tuple(value)
        shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else value
        raise ConfigError(f"{name} is integers such as 256 256, not {shown!r}")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} is {KINDS[kind]}, not {value!r}")
    return value


def _is_within(value: float, bounds: Range) -> bool:
    low, high, closed = bounds
    return low <= value <= high if closed else low < value < high


def _bounds(bounds: Range) -> str:
    low, high, closed = bounds
    if closed:
        return f"from {low:g} to {high:g}"
    return f"between {low:g} and {high:g}, both excluded"
