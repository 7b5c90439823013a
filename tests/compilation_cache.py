"""The cache of compiled programs that all test runs share, outside the checkout."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Mapping, MutableMapping


def processor() -> str:
    """Eight hex digits that change with the instructions of this machine's processor."""
    info = pathlib.Path("/proc/cpuinfo")
    flags = (
        re.search(r"^(flags|Features)\s*:(.*)$", info.read_text(), re.M) if info.exists() else None
    )
    features = " ".join(sorted(flags[2].split())) if flags else platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


def folder(environ: Mapping[str, str]) -> str:
    """The cache folder: IST_JAX_TEST_CACHE, or JAX's own variable, or one in the user's cache.

    The default folder's name has the processor and JAX's version, which programs are compiled for.
    """
    for name in ("IST_JAX_TEST_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        if environ.get(name):
            return environ[name]
    caches = pathlib.Path(environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    version = importlib.metadata.version("jax")
    return str(caches / "ist_jax" / "tests" / f"jax-{version}-{processor()}")


def export(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets JAX's variables, before JAX is imported; every program is kept."""
    environ["JAX_COMPILATION_CACHE_DIR"] = folder(environ)
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
