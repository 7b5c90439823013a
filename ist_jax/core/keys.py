"""Random keys: a run folds the round number into its root key, and names into the result."""

import zlib

import jax

from ist_jax.core.types import Key


def named_key(key: Key, name: str) -> Key:
    """The key called `name` under `key`: the same on every host and in every session."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
