"""Numbers with units, as people write them: 1Gbps, 2.5ms."""

import math
import re

from ist_jax.analysis.links import Link
from ist_jax.cli.config import ConfigError

_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_BITS = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _number(name: str, text: str, units: dict[str, float]) -> float:
    match = re.fullmatch(rf"({_DECIMAL}(?:e-?[0-9]+)?) ?({'|'.join(units)})", text)
    if match is None:
        raise ConfigError(
            f"{name} is a number with one of the units {', '.join(units)}, not {text!r}"
        )
    number = float(match[1]) * units[match[2]]
    if math.isinf(number):
        raise ConfigError(f"{name} is a finite number, not {text!r}")
    return number


def bytes_per_second(text: str, name: str = "link.bandwidth") -> float:
    """'1Gbps' as 1.25e8 bytes per second.

    Raises:
      ConfigError: `text` is not a positive speed; the message names the field or flag `name`.
    """
    speed = _number(name, text, _BITS) / 8
    if speed <= 0:
        raise ConfigError(f"{name} is above 0, not {text!r}")
    return speed


def seconds(text: str, name: str = "link.latency") -> float:
    """'1ms' as 0.001.

    Raises:
      ConfigError: `text` is not a time; the message names the field or flag `name`.
    """
    return _number(name, text, _SECONDS)


def link(bandwidth: str, latency: str) -> Link | None:
    """The link with this bandwidth and latency; None if `bandwidth` is ''. Raises ConfigError."""
    return Link(bytes_per_second(bandwidth), seconds(latency)) if bandwidth else None
