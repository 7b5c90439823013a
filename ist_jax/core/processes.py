"""Agreement between the processes of one run; with one process, nothing."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


class OtherProcessError(RuntimeError):
    """Another process of this run failed, and said why."""


def is_first() -> bool:
    """Whether this is process 0, which alone writes records."""
    return jax.process_index() == 0


def broadcast_from_first(choose: Callable[[], int]) -> int:
    """What process 0 chooses, on all processes; if it fails, all fail."""
    chosen = [0]

    def on_first() -> None:
        if jax.process_index() == 0:
            chosen[0] = choose()

    all_succeed(on_first)
    return (
        chosen[0]
        if jax.process_count() == 1
        else int(multihost_utils.broadcast_one_to_all(np.int32(chosen[0])))
    )


def all_succeed(action: Callable[[], None]) -> None:
    """Runs `action` on every process. If one fails there, no other waits for it for ever.

    Raises:
      OtherProcessError: another process failed; this one's own error is raised as it is.
    """
    error = None
    try:
        action()
    except Exception as raised:
        if jax.process_count() == 1:
            raise
        error = raised
    failed = any_process(error is not None)
    if error is not None:
        raise error
    if failed:
        raise OtherProcessError("another process of this run failed; its message says why")


def any_process(flag: bool) -> bool:
    """Whether `flag` holds on any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array, also where other processes hold a part of it."""
    if not array.is_fully_addressable and not array.is_fully_replicated:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def replicate(sharding: jax.sharding.Sharding, value: np.ndarray) -> jax.Array:
    """A value that all processes have, on every device of `sharding`, without asking the others for theirs."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def key_on(sharding: jax.sharding.Sharding, key: jax.Array) -> jax.Array:
    """`key` on the devices of `sharding`, those of other processes too (which `device_put` refuses for keys)."""
    return jax.random.wrap_key_data(replicate(sharding, np.asarray(jax.random.key_data(key))))
