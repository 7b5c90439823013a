"""Agreement between the processes of one run. A single process never communicates."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec


class OtherProcessError(RuntimeError):
    """Another process of this run failed. Its message says why."""


def is_first() -> bool:
    """Whether this is process 0, the only one that writes records."""
    return jax.process_index() == 0


def broadcast_from_first(choose: Callable[[], int]) -> int:
    """The integer that process 0 chooses, returned on all processes.

    Args:
      choose: called on process 0 only.

    Raises:
      OtherProcessError: `choose` failed on process 0, which raises the error itself.
    """
    chosen = 0

    def choose_on_first() -> None:
        nonlocal chosen
        if is_first():
            chosen = choose()

    all_succeed(choose_on_first)
    if jax.process_count() == 1:
        return chosen
    return int(multihost_utils.broadcast_one_to_all(np.int32(chosen)))


def all_succeed(action: Callable[[], None]) -> None:
    """Runs `action` on every process. If it fails on one, all raise, so that none waits forever.

    Raises:
      Exception: the error of `action`, on a process where it failed.
      OtherProcessError: `action` succeeded here and failed on another process.
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
    """Whether `flag` is true on any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def fetch(array: jax.Array) -> np.ndarray:
    """The full array on the host. All processes must call it, since each may store a part."""
    if not array.is_fully_addressable and not array.is_fully_replicated:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def replicate(sharding: jax.sharding.Sharding, value: np.ndarray) -> jax.Array:
    """`value` on every device of `sharding`. All processes must pass the same value (unchecked)."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def key_on(sharding: jax.sharding.Sharding, key: jax.Array) -> jax.Array:
    """`key` on every device of `sharding`, including those of other processes."""
    # jax.device_put refuses keys on devices of other processes
    return jax.random.wrap_key_data(replicate(sharding, np.asarray(jax.random.key_data(key))))


def over_devices(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """A sharding that splits the leading axis evenly over the devices of `sharding`."""
    if len(sharding.device_set) == 1:
        return sharding
    assert isinstance(sharding, NamedSharding)  # several devices are always a mesh
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.mesh.axis_names[0]))
