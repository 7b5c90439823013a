"""Random keys: one root key per run, folded with the round, then with names."""

import zlib

import jax
import numpy as np

from ist_jax.types import Key


def named_key(key: Key, name: str) -> Key:
    """The sub-key called `name`; equal on every host and in every session."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def put_everywhere(sharding: jax.sharding.Sharding, value: np.ndarray) -> jax.Array:
    """A value that all processes have, on every device of `sharding`, without asking the others for theirs."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def key_on(sharding: jax.sharding.Sharding, key: Key) -> Key:
    """`key` on the devices of `sharding`, those of other processes too (which `device_put` refuses for keys)."""
    return jax.random.wrap_key_data(put_everywhere(sharding, np.asarray(jax.random.key_data(key))))
