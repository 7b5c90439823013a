"""What this machine has."""

import os
import pathlib
import platform
import re
from collections.abc import Collection

import jax

_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)  # of a container


def processor() -> str:
    """The kind of this machine's processor; Linux alone says more than its instruction set."""
    said = pathlib.Path("/proc/cpuinfo")
    named = (
        re.search(r"^model name\s*:\s*(.+)$", said.read_text(), re.MULTILINE)
        if said.is_file()
        else None
    )
    return named[1] if named else platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_the_host() -> int:
    limits = [
        text
        for file in map(pathlib.Path, _LIMITS)
        if file.is_file() and (text := file.read_text().strip()).isdigit()
    ]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(int, limits)])


def memory_bytes() -> int:
    """The memory of this process's devices together; that of the host, or its container, for CPU devices, which share it."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    return (
        sum(stats["bytes_limit"] for stats in found)
        if all("bytes_limit" in stats for stats in found)
        else _of_the_host()
    )


def _on_host(num_bytes: float, devices: Collection[jax.Device]) -> float:
    """What a program that takes so many bytes of each of `devices` takes of this host, whose memory CPU devices share."""
    here = [
        device
        for device in devices
        if device.process_index == jax.process_index() and device.platform == "cpu"
    ]
    return len(here) * num_bytes


def fits(num_bytes: float, devices: Collection[jax.Device]) -> bool:
    """Whether the host has so many bytes for each of `devices`, if they are CPU devices: it ends a process that takes more of
    its memory than there is without a word. An accelerator says so itself."""
    return _on_host(num_bytes, devices) <= memory_bytes()


def check_fits(num_bytes: float, devices: Collection[jax.Device]) -> None:
    """Raises MemoryError unless a round that takes so many bytes of each of `devices` `fits`."""
    if not fits(num_bytes, devices):
        needed, there = _on_host(num_bytes, devices), memory_bytes()
        raise MemoryError(
            f"a round takes {needed / 1e9:,.0f} GB, and the memory is {there / 1e9:,.0f} GB"
        )
