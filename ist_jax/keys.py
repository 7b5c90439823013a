"""Random keys: one root key per run, folded with the round, then with names."""

import zlib

import jax
import numpy as np

from ist_jax.types import Key


def named_key(key: Key, name: str) -> Key:
    """The sub-key called `name`; equal on every host and in every session."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def key_on(sharding: jax.sharding.Sharding, key: Key) -> Key:
    """`key` on the devices of `sharding`, those of other processes too (which `device_put` refuses for keys)."""
    return jax.random.wrap_key_data(jax.device_put(np.asarray(jax.random.key_data(key)), sharding))
