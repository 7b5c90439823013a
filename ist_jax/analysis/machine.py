"""The processor, cores and memory of this machine."""

import os
import pathlib
import platform
import re
from collections.abc import Collection

import jax

# where Linux stores the memory limit of a container
_MEMORY_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def processor() -> str:
    """The model of the processor on Linux; its instruction set elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _host_memory_bytes() -> int:
    """The memory of the host, or of the container that this process runs in."""
    limits = [
        text
        for file in map(pathlib.Path, _MEMORY_LIMIT_FILES)
        if file.is_file() and (text := file.read_text().strip()).isdigit()
    ]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(int, limits)])


def available_memory_bytes() -> int:
    """The memory of all devices of this process. CPU devices share the host's."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in of_device for of_device in stats):
        return sum(of_device["bytes_limit"] for of_device in stats)
    return _host_memory_bytes()


def _on_host(num_bytes: float, devices: Collection[jax.Device]) -> float:
    """Bytes of this host's memory if a program needs `num_bytes` on each device."""
    is_local = lambda device: device.process_index == jax.process_index()
    return num_bytes * sum(device.platform == "cpu" and is_local(device) for device in devices)


def fits(num_bytes: float, devices: Collection[jax.Device]) -> bool:
    """Whether this host has `num_bytes` for each of its CPU devices among `devices`.

    Accelerators are not checked: they raise an error. A host kills the process without a message.
    """
    return _on_host(num_bytes, devices) <= available_memory_bytes()


def check_fits(num_bytes: float, devices: Collection[jax.Device]) -> None:
    """Raises MemoryError if this host has less than `num_bytes` for each CPU device."""
    if not fits(num_bytes, devices):
        needed, available = _on_host(num_bytes, devices), available_memory_bytes()
        raise MemoryError(
            f"a round takes {needed / 1e9:,.0f} GB, and the memory is {available / 1e9:,.0f} GB"
        )
