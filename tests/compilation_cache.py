"""The cache of compiled programs that all test runs share, outside the checkout."""

import os
from collections.abc import Mapping, MutableMapping

from ist_jax.cli import compilation_cache


def folder(environ: Mapping[str, str]) -> str:
    """The cache folder: IST_JAX_TEST_CACHE, or JAX's own variable, or one in the user's cache."""
    for name in ("IST_JAX_TEST_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        if environ.get(name):
            return environ[name]
    return str(compilation_cache.folder("tests", environ))


def export(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets JAX's variables, before JAX is imported; every program is kept."""
    environ["JAX_COMPILATION_CACHE_DIR"] = folder(environ)
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
