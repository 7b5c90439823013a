"""How the units of one group are assigned to S subnetworks: one function per partition.

Each function is `(key, current_SxM, size) -> int32[S, M]`. It takes the units that the subnetworks
hold now, and returns the units that they hold next, sorted. An index equal to `size` is padding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.types import Array, Key

Assign = Callable[[Key, Array, int], Array]


def home_size(size: int, num_subnets: int) -> int:
    """Units per home: N / S, rounded up.

    Home h owns the units from h * home_size to (h + 1) * home_size - 1, as far as they exist.
    """
    return -(-size // num_subnets)


def homes(size: int, num_subnets: int) -> Array:
    """int32[S, home size]: the units of every home, padded at the end."""
    length = home_size(size, num_subnets)
    unit = jnp.minimum(jnp.arange(num_subnets * length, dtype=jnp.int32), size)
    return unit.reshape(num_subnets, length)


def round_robin(unit_N: Array, size: int, num_subnets: int) -> Array:
    """int32[S, M], sorted and padded: `unit_N[i]` goes to subnetwork i mod S."""
    num_missing = -unit_N.shape[0] % num_subnets
    unit_N = jnp.concatenate([unit_N, jnp.full(num_missing, size, unit_N.dtype)])
    return jnp.sort(unit_N.reshape(-1, num_subnets).T, axis=1).astype(jnp.int32)


def _by_owners(key: Key, unit_OxM: Array, size: int) -> Array:
    """int32[S, M]: each owner o assigns its units `unit_OxM[o]` at random.

    The subnetworks' shares of one owner's units differ by at most one unit.
    """
    unit_key, subnet_key = jax.random.split(key)
    order_OxM = jnp.argsort(jax.random.uniform(unit_key, unit_OxM.shape), axis=1)
    unit = jnp.take_along_axis(unit_OxM, order_OxM, axis=1).reshape(-1)
    unit = unit[jnp.argsort(unit == size, stable=True)]  # padding last
    # one round-robin over all owners: each owner continues where the previous one stopped
    shares_SxM = round_robin(unit, size, unit_OxM.shape[0])
    return jax.random.permutation(subnet_key, shares_SxM)


def balanced_by_homes(key: Key, current_SxM: Array, size: int) -> Array:
    """'balanced' for home-sharded groups: the owner of a unit is its home."""
    return _by_owners(key, homes(size, current_SxM.shape[0]), size)


def balanced_by_holders(key: Key, current_SxM: Array, size: int) -> Array:
    """'balanced' for holder-sharded groups: the owner of a unit is the subnetwork that holds it."""
    return _by_owners(key, current_SxM, size)


def uniform(key: Key, current_SxM: Array, size: int) -> Array:
    """A random permutation of all units, in shares that differ by at most one unit."""
    unit_key, subnet_key = jax.random.split(key)
    unit_N = jax.random.permutation(unit_key, size)
    shares_SxM = round_robin(unit_N, size, current_SxM.shape[0])
    return jax.random.permutation(subnet_key, shares_SxM)


def blocks(key: Key, current_SxM: Array, size: int) -> Array:
    """Like `uniform`, but the larger shares shift by one subnetwork per round."""
    count_S = jnp.roll((current_SxM < size).sum(axis=1), 1)
    held_SxN = _disjoint_sets(key, count_S, size)
    unit_SxN = jnp.where(held_SxN, jnp.arange(size)[None], size)
    return jnp.sort(unit_SxN, axis=1)[:, : current_SxM.shape[1]].astype(jnp.int32)


def blocks_with_overlap(key: Key, current_SxM: Array, size: int) -> Array:
    """Assigns every unit once. Then every subnetwork draws further units until it has M."""
    first_key, further_key = jax.random.split(key)
    num_subnets, slots = current_SxM.shape
    count_S = jnp.bincount(jnp.arange(size) % num_subnets, length=num_subnets)
    held_SxN = _disjoint_sets(first_key, count_S, size)
    random_SxN = jax.random.uniform(further_key, held_SxN.shape)
    drawn_SxM = jnp.argsort(jnp.where(held_SxN, -1.0, random_SxN), axis=1)[:, :slots]
    return jnp.sort(drawn_SxM, axis=1).astype(jnp.int32)


def _disjoint_sets(key: Key, count_S: Array, size: int) -> Array:
    """bool[S, N]: random disjoint sets of `count_S` units that cover all units."""
    subnet_S = jnp.arange(count_S.shape[0])
    holder_N = jnp.repeat(subnet_S, count_S, total_repeat_length=size)
    return jax.random.permutation(key, holder_N)[None] == subnet_S[:, None]


def rolling(key: Key, current_SxM: Array, size: int) -> Array:
    """Each subnetwork replaces every unit by the next one, and the last unit by the first."""
    del key
    return jnp.sort(jnp.where(current_SxM < size, (current_SxM + 1) % size, size), axis=1)


def fixed(key: Key, current_SxM: Array, size: int) -> Array:
    """Every subnetwork keeps its units."""
    del key, size
    return current_SxM


def slices(size: int, num_subnets: int, slots: int, overlaps: bool) -> Array:
    """int32[S, M]: contiguous slices, as equal as possible.

    With overlap, all slices have M = `slots` units, and the last ones start early enough to fit.
    """
    count_S = np.array([len(units) for units in np.array_split(np.arange(size), num_subnets)])
    start_S = np.cumsum(count_S) - count_S
    if overlaps:
        start_S, count_S = np.minimum(start_S, size - slots), np.full(num_subnets, slots)
    unit_SxM = start_S[:, None] + np.arange(slots)
    return jnp.asarray(np.where(np.arange(slots) < count_S[:, None], unit_SxM, size), jnp.int32)
