"""Partitions: which units each subnetwork holds, as pure index functions.

    balanced  every one of S dealers deals its units at random in equal shares (to +-1). The default, and
              what a mesh can exchange in equal blocks. The dealer of a unit is its home (as in the authors'
              partitioned parameter server, IST_Release, distributed_*_partitioned_ps) or, in a travelling
              group, the subnetwork that holds it.
    uniform   a random permutation per group, dealt in equal shares (IST, Yuan et al., VLDB 2022).
    blocks    as uniform, counts as equal as possible, the larger shares going round; an optional minimum
              depth lets subnetworks overlap (ResIST, Dun et al., UAI 2022, section 3).
    rolling   contiguous slices that move on by one unit every round (FedRolex, Alam et al., 2022).
    fixed     the slices of the first round for ever (an ensemble of subnetworks).

All give `indices[group]: int32[S, M]`, sorted in every row, padded with the group's size where S does not
divide it. The result is a function of (key, previous indices) alone, so all hosts agree without talking.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.types import Array, Indices, Key

EQUAL_BLOCKS = ("balanced", "blocks")


class Partition(NamedTuple):
    """How the units of every group are dealt to S subnetworks.

    Attributes:
      name: a name of `DEALS`.
      num_subnets: S.
      sizes: group -> number of units N.
      slots: group -> unit slots M of one subnetwork, padding included.
      first: () -> Indices before the first round: every S-th unit ('balanced'), or contiguous slices.
      sample: (key, current) -> Indices of the next round.
      disjoint: whether no unit ever has two holders.
      travelling: the groups of 'balanced' whose units are dealt by their holders and stay with them between rounds.
    """

    name: str
    num_subnets: int
    sizes: Mapping[str, int]
    slots: Mapping[str, int]
    first: Callable[[], Indices]
    sample: Callable[[Key, Indices], Indices]
    disjoint: bool
    travelling: frozenset[str] = frozenset()

    def with_travelling(self, groups: Iterable[str]) -> "Partition":
        """The same partition with other travelling groups. Raises ValueError if it is not 'balanced'."""
        return (
            self
            if frozenset(groups) == self.travelling
            else partition(self.name, self.sizes, self.num_subnets, travelling=groups)
        )

    @property
    def equal_blocks(self) -> bool:
        """Whether `pair_units` bounds what a home and a subnetwork share, which a mesh needs."""
        return not self.sizes or self.name in EQUAL_BLOCKS

    def pair_units(self, group: str) -> int:
        """K: how many units of `group` one dealer (a home, a holder) and one subnetwork can share at most."""
        home = home_size(self.sizes[group], self.num_subnets)
        if self.name == "balanced":
            return -(-home // self.num_subnets)
        return min(home, self.slots[group])


def home_size(size: int, num_subnets: int) -> int:
    """Units that one of S homes keeps: home h owns the units h * home_size up to the next home's first."""
    return -(-size // num_subnets)


def _sorted_rows(cards_S: Array, size: int, num_subnets: int) -> Array:
    """Deals the cards round the table: card i goes to subnetwork i mod S."""
    missing = -cards_S.shape[0] % num_subnets
    cards = jnp.concatenate([cards_S, jnp.full(missing, size, cards_S.dtype)])
    return jnp.sort(cards.reshape(-1, num_subnets).T, axis=1).astype(jnp.int32)


def homes(size: int, num_subnets: int) -> Array:
    """int32[S, home]: the units of every home, padded at the end."""
    home = home_size(size, num_subnets)
    return jnp.minimum(jnp.arange(num_subnets * home, dtype=jnp.int32), size).reshape(num_subnets, home)


def _dealt_by(key: Key, hand_SxM: Array, size: int) -> Array:
    """Every dealer s deals the units in hand_SxM[s] at random, in equal shares."""
    deal_key, seat_key = jax.random.split(key)
    shuffled_SxM = jnp.take_along_axis(hand_SxM, jnp.argsort(jax.random.uniform(deal_key, hand_SxM.shape), axis=1), axis=1)
    # one dealer after another, each going on where the one before stopped: shares differ by one at most
    cards = shuffled_SxM.reshape(-1)
    cards = cards[jnp.argsort(cards == size, stable=True)]  # padding last
    return jax.random.permutation(seat_key, _sorted_rows(cards, size, hand_SxM.shape[0]))


def _balanced(key: Key, current_SxM: Array, size: int) -> Array:
    return _dealt_by(key, homes(size, current_SxM.shape[0]), size)


def _travelling(key: Key, current_SxM: Array, size: int) -> Array:
    return _dealt_by(key, current_SxM, size)


def _uniform(key: Key, current_SxM: Array, size: int) -> Array:
    deal_key, seat_key = jax.random.split(key)
    cards = jax.random.permutation(deal_key, size)
    return jax.random.permutation(seat_key, _sorted_rows(cards, size, current_SxM.shape[0]))


def _blocks(key: Key, current_SxM: Array, size: int) -> Array:
    num_subnets, slots = current_SxM.shape
    most = home_size(size, num_subnets)
    overlapping = slots > most
    deal_key, fill_key = jax.random.split(key)
    if overlapping:  # the counts only say who is dealt which unit first
        count_S = jnp.bincount(jnp.arange(size) % num_subnets, length=num_subnets)
    else:  # the larger shares move on by one subnetwork a round
        count_S = jnp.roll((current_SxM < size).sum(axis=1), 1)
    holder_N = jnp.repeat(jnp.arange(num_subnets), count_S, total_repeat_length=size)
    dealt_SxN = jax.random.permutation(deal_key, holder_N)[None] == jnp.arange(num_subnets)[:, None]
    if not overlapping:
        held_SxN = jnp.where(dealt_SxN, jnp.arange(size)[None], size)
        return jnp.sort(held_SxN, axis=1)[:, :slots].astype(jnp.int32)
    # first the units dealt, which cover the group, then others at random up to the minimum depth
    draw_SxN = jnp.where(dealt_SxN, -1.0, jax.random.uniform(fill_key, dealt_SxN.shape))
    return jnp.sort(jnp.argsort(draw_SxN, axis=1)[:, :slots], axis=1).astype(jnp.int32)


def _rolling(key: Key, current_SxM: Array, size: int) -> Array:
    del key
    return jnp.sort(jnp.where(current_SxM < size, (current_SxM + 1) % size, size), axis=1)


def _fixed(key: Key, current_SxM: Array, size: int) -> Array:
    del key, size
    return current_SxM


DEALS = {"balanced": _balanced, "uniform": _uniform, "blocks": _blocks, "rolling": _rolling, "fixed": _fixed}


def _first(name: str, size: int, num_subnets: int, slots: int) -> Array:
    """What is held before the first deal: the units dealt in order ('balanced'), or contiguous slices, as equal as possible.

    With overlap all have `slots` units, and the last reach back.
    """
    if name == "balanced":
        return _sorted_rows(jnp.arange(size, dtype=jnp.int32), size, num_subnets)
    count_S = np.array([len(part) for part in np.array_split(np.arange(size), num_subnets)])
    start_S = np.cumsum(count_S) - count_S
    if slots > count_S.max():
        start_S, count_S = np.minimum(start_S, size - slots), np.full(num_subnets, slots)
    unit_SxM = start_S[:, None] + np.arange(slots)
    return jnp.asarray(np.where(np.arange(slots) < count_S[:, None], unit_SxM, size), jnp.int32)


def partition(
    name: str, sizes: Mapping[str, int], num_subnets: int, *, min_units: int = 0, travelling: Iterable[str] = ()
) -> Partition:
    """The partition `name` of groups of the given sizes over S subnetworks.

    Args:
      name: 'balanced', 'uniform', 'blocks', 'rolling' or 'fixed'.
      sizes: group -> number of units; empty for methods that do not decompose.
      num_subnets: S.
      min_units: for 'blocks', how many units every subnetwork holds at least. Above N / S subnetworks
        overlap, and every unit is still held by one of them.
      travelling: for 'balanced', the groups that are dealt by their holders instead of by homes.

    Raises:
      ValueError: unknown name, a group smaller than S, `min_units` larger than a group or not for 'blocks', or travelling
        groups that are none, or not with 'balanced'.
    """
    if name not in DEALS:
        raise ValueError(f"partition is one of {sorted(DEALS)}, not {name!r}")
    if num_subnets < 1:
        raise ValueError(f"num_subnets is at least 1, not {num_subnets}")
    if min_units and name != "blocks":
        raise ValueError(f"min_units={min_units} goes with the partition 'blocks' only, not with {name!r}")
    travelling = frozenset(travelling)
    if travelling and (name != "balanced" or travelling - set(sizes)):
        raise ValueError(
            f"travelling={sorted(travelling)}: groups of {sorted(sizes)}, with the partition 'balanced', not {name!r}"
        )
    for group, size in sizes.items():
        if size < num_subnets:
            raise ValueError(
                f"every subnetwork holds a unit of every group: group {group!r} has {size} units for "
                f"num_subnets={num_subnets}; use at most {size} subnetworks or a wider layer"
            )
        if min_units > size:
            raise ValueError(f"min_units={min_units} is more than the {size} units of group {group!r}")
    slots = {group: max(home_size(size, num_subnets), min_units) for group, size in sizes.items()}

    def first() -> Indices:
        return {group: _first(name, sizes[group], num_subnets, slots[group]) for group in sizes}

    def sample(key: Key, current: Indices) -> Indices:
        keys = jax.random.split(key, max(len(sizes), 1))
        deal = {group: _travelling if group in travelling else DEALS[name] for group in sizes}
        return {group: deal[group](k, current[group], sizes[group]) for k, group in zip(keys, sorted(sizes))}

    disjoint = all(slots[group] == home_size(size, num_subnets) for group, size in sizes.items())
    return Partition(name, num_subnets, dict(sizes), slots, first, sample, disjoint, travelling)


def uneven_groups(sizes: Mapping[str, int], num_subnets: int) -> dict[str, int]:
    """The groups that S does not divide, so that some subnetworks are padded."""
    return {group: size for group, size in sizes.items() if size % num_subnets}
