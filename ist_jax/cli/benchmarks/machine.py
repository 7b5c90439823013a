"""The machine that a benchmark ran on, and the growth of measured times."""

import datetime
import math
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ist_jax.analysis.machine import cores, processor
from ist_jax.training.environment import git_revision


def machine() -> dict[str, Any]:
    """Revision, date, processor and devices of this machine."""
    return {
        "revision": git_revision(),
        "date": datetime.date.today().isoformat(),
        "platform": platform.platform(terse=True),
        "processor": processor(),
        "cores": cores(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "jax": jax.__version__,
    }


def described(machine: dict[str, Any]) -> str:
    """The machine in words. Older records have no revision, or x86_64 in place of a processor."""
    kinds, processor = machine["devices"], machine.get("processor")
    parts = [] if processor in (None, "x86_64") else [processor]
    parts += [machine["platform"], f"{machine['cores']} cores", f"{len(kinds)} x {kinds[0]}"]
    parts += [f"JAX {machine['jax']}"]
    if "revision" in machine:
        parts += [machine["date"], f"revision {machine['revision']}"]
    return ", ".join(parts)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The power of x with which y grows: the slope of a line through the logarithms."""
    return float(np.polyfit([math.log(x) for x in xs], [math.log(y) for y in ys], 1)[0])
