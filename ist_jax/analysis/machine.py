"""What this machine has."""

import os
import pathlib
import platform
import re
from collections.abc import Collection
from typing import Any

import jax

# where Linux says how much memory a container may use
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def processor() -> str:
    """The model of this machine's processor on Linux; elsewhere its instruction set."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _host_memory_bytes() -> int:
    """Memory of the host, or of the container that this process runs in."""
    limits = [
        text
        for file in map(pathlib.Path, _LIMITS)
        if file.is_file() and (text := file.read_text().strip()).isdigit()
    ]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(int, limits)])


def memory_bytes() -> int:
    """Memory of all devices of this process; CPU devices share that of the host."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in of_device for of_device in stats):
        return sum(of_device["bytes_limit"] for of_device in stats)
    return _host_memory_bytes()


def _on_host(num_bytes: float, devices: Collection[Any]) -> float:
    """Bytes of this host that a program takes which takes `num_bytes` of each device."""
    is_here = lambda device: device.process_index == jax.process_index()
    return num_bytes * sum(device.platform == "cpu" and is_here(device) for device in devices)


def fits(num_bytes: float, devices: Collection[Any]) -> bool:
    """Whether the host has `num_bytes` for each CPU device among `devices`.

    A host ends a process that takes too much without a message; an accelerator raises an error.
    """
    return _on_host(num_bytes, devices) <= memory_bytes()


def check_fits(num_bytes: float, devices: Collection[Any]) -> None:
    """Raises MemoryError if a round takes `num_bytes` of each device, and that does not fit."""
    if not fits(num_bytes, devices):
        needed, available = _on_host(num_bytes, devices), memory_bytes()
        raise MemoryError(
            f"a round takes {needed / 1e9:,.0f} GB, and the memory is {available / 1e9:,.0f} GB"
        )
