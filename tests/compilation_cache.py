"""How tests compile: quickly, and into a cache that all processes and all runs share.

The cache is outside the checkout. XLA's newer code generator for fusions on CPUs takes 2.5 times as
long as the older one to compile a round, so tests use the older one where this jaxlib still has it.
"""

import hashlib
import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
import platform
import re
from collections.abc import Mapping, MutableMapping

QUICK = "xla_cpu_use_fusion_emitters"


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


def has_xla_flag(name: str) -> bool:
    """Whether the installed jaxlib knows this flag: with an unknown one, XLA ends the process."""
    (jaxlib,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    for library in pathlib.Path(jaxlib).glob("*.so"):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            if text.find(name.encode()) >= 0:
                return True
    return False


# compiler options of a program that must have the bits that users' programs have
AS_USERS = {QUICK: True} if has_xla_flag(QUICK) else {}


def export(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets JAX's and XLA's variables, before JAX is imported; every program is kept."""
    environ["JAX_COMPILATION_CACHE_DIR"] = folder(environ)
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    flags = environ.get("XLA_FLAGS", "")
    if QUICK not in flags and has_xla_flag(QUICK):
        environ["XLA_FLAGS"] = f"{flags} --{QUICK}=false".strip()
