"""Where compiled programs are kept between processes. It does not import JAX."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Mapping, MutableMapping


def _instructions() -> str:
    """Eight hex digits that change with the instructions of this machine's processor."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    flags = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    features = " ".join(sorted(flags[2].split())) if flags else platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


def folder(name: str, environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """The folder `name` in the user's cache for programs that this machine can run.

    Its path has JAX's version and the processor, for which programs are compiled: a home directory
    may be shared by machines with different processors.
    """
    caches = pathlib.Path(environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    version = importlib.metadata.version("jax")
    return caches / "ist_jax" / name / f"jax-{version}-{_instructions()}"


def keep_compiled_programs(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX's variables say otherwise.

    It sets environment variables: child processes inherit them, and JAX need not be imported.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in environ:
        environ["JAX_COMPILATION_CACHE_DIR"] = str(folder("programs", environ))
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
