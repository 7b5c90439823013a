"""Partitions: which units each subnetwork holds, as pure index functions.

    balanced  every one of S dealers deals its units at random in equal shares (to +-1). The default, and
              what a mesh can exchange in equal blocks. The dealer of a unit is its home (as in the authors'
              partitioned parameter server, IST_Release, distributed_*_partitioned_ps) or, in a travelling
              group, the subnetwork that holds it.
    uniform   a random permutation per group, dealt in equal shares (IST, Yuan et al., VLDB 2022).
    blocks    as uniform, counts as equal as possible, the larger shares going round (ResIST, Dun et al., UAI 2022,
              section 3).
    rolling   contiguous slices that move on by one unit every round (FedRolex, Alam et al., 2022).
    fixed     the slices of the first round for ever (an ensemble of subnetworks).

'balanced' and 'blocks' take a minimum depth: subnetworks that would be dealt fewer units hold others' as well
(ResIST's minimum depth), drawn from all units ('blocks'), or as few as possible of each home's ('balanced'; of few
blocks that is one of each, so that neighbours of one home never sit together). All units are held equally often.

All give `indices[group]: int32[S, M]`, sorted in every row, padded with the group's size where S does not
divide it. The result is a function of (key, previous indices) alone, so all hosts agree without talking.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.types import Array, Indices, Key

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
      min_units: of every group, that every subnetwork holds at least.
      travelling: the groups of 'balanced' whose units are dealt by their holders and stay with them between rounds.
    """

    name: str
    num_subnets: int
    sizes: Mapping[str, int]
    slots: Mapping[str, int]
    first: Callable[[], Indices]
    sample: Callable[[Key, Indices], Indices]
    min_units: int = 0
    travelling: frozenset[str] = frozenset()

    @property
    def overlapping(self) -> frozenset[str]:
        """The groups whose units may have several holders."""
        return frozenset(
            group for group, size in self.sizes.items() if self.min_units > size // self.num_subnets
        )

    @property
    def disjoint(self) -> bool:
        """Whether no unit ever has two holders."""
        return not self.overlapping

    @property
    def padded(self) -> dict[str, int]:
        """The sizes of the groups of which some subnetworks hold padding."""
        return {
            group: size
            for group, size in uneven_groups(self.sizes, self.num_subnets).items()
            if group not in self.overlapping
        }

    def with_travelling(self, groups: Iterable[str]) -> "Partition":
        """The same partition with other travelling groups. Raises ValueError if it is not 'balanced'."""
        if frozenset(groups) == self.travelling:
            return self
        return partition(
            self.name, self.sizes, self.num_subnets, min_units=self.min_units, travelling=groups
        )

    @property
    def equal_blocks(self) -> bool:
        """Whether `pair_units` bounds what a home and a subnetwork share, which a mesh needs."""
        return not self.sizes or self.name in EQUAL_BLOCKS

    def pair_units(self, group: str) -> int:
        """K: how many units of `group` one dealer (a home, a holder) and one subnetwork can share at most."""
        size, num_subnets = self.sizes[group], self.num_subnets
        if self.name == "balanced":
            return _pair_units(
                size, num_subnets, self.slots[group] if group in self.overlapping else 0
            )
        return min(home_size(size, num_subnets), self.slots[group])


def home_size(size: int, num_subnets: int) -> int:
    """Units that one of S homes keeps: home h owns the units h * home_size up to the next home's first."""
    return -(-size // num_subnets)


def _pair_units(size: int, num_subnets: int, slots: int) -> int:
    """The smallest equal share of a home, of which a subnetwork holds `slots` / `size` on average; without overlap, 1 / S."""
    return max(
        -(-home_size(size, num_subnets) // num_subnets),
        -(-home_size(size, num_subnets) * slots // size),
    )


def _sorted_rows(cards_S: Array, size: int, num_subnets: int) -> Array:
    """Deals the cards round the table: card i goes to subnetwork i mod S."""
    missing = -cards_S.shape[0] % num_subnets
    cards = jnp.concatenate([cards_S, jnp.full(missing, size, cards_S.dtype)])
    return jnp.sort(cards.reshape(-1, num_subnets).T, axis=1).astype(jnp.int32)


def homes(size: int, num_subnets: int) -> Array:
    """int32[S, home]: the units of every home, padded at the end."""
    home = home_size(size, num_subnets)
    return jnp.minimum(jnp.arange(num_subnets * home, dtype=jnp.int32), size).reshape(
        num_subnets, home
    )


def _dealt_by(key: Key, hand_SxM: Array, size: int) -> Array:
    """Every dealer s deals the units in hand_SxM[s] at random, in equal shares."""
    deal_key, seat_key = jax.random.split(key)
    shuffled_SxM = jnp.take_along_axis(
        hand_SxM, jnp.argsort(jax.random.uniform(deal_key, hand_SxM.shape), axis=1), axis=1
    )
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
    # the larger shares move on by one subnetwork a round
    held_SxN = _dealt_in_counts(key, jnp.roll((current_SxM < size).sum(axis=1), 1), size)
    unit_SxN = jnp.where(held_SxN, jnp.arange(size)[None], size)
    return jnp.sort(unit_SxN, axis=1)[:, : current_SxM.shape[1]].astype(jnp.int32)


def _dealt_in_counts(key: Key, count_S: Array, size: int) -> Array:
    """bool[S, N]: a random deal of `count_S` units."""
    holder_N = jnp.repeat(jnp.arange(count_S.shape[0]), count_S, total_repeat_length=size)
    return jax.random.permutation(key, holder_N)[None] == jnp.arange(count_S.shape[0])[:, None]


def _blocks_overlapping(key: Key, current_SxM: Array, size: int) -> Array:
    """Every unit is dealt once, then every subnetwork draws others of all units up to its slots."""
    deal_key, fill_key = jax.random.split(key)
    num_subnets, slots = current_SxM.shape
    count_S = jnp.bincount(jnp.arange(size) % num_subnets, length=num_subnets)
    held_SxN = _dealt_in_counts(deal_key, count_S, size)
    draw_SxN = jnp.where(held_SxN, -1.0, jax.random.uniform(fill_key, held_SxN.shape))
    return jnp.sort(jnp.argsort(draw_SxN, axis=1)[:, :slots], axis=1).astype(jnp.int32)


def _balanced_overlapping(key: Key, current_SxM: Array, size: int) -> Array:
    """Everybody holds M of N units, every unit with probability M / N, and of a home at most ceil(home M / N); all are held.

    The S M slots are copies of units (`_copies`): a unit has S M / N of them, on average and rounded up or down; n neighbours
    in the row, such as a home's, have n times that, rounded. None is left out (S M >= N) or has more than S (M <= N).

    A home's L copies go, in the order of the row, round its own table of the S subnetworks: those of one unit lie side by side
    and go to different ones, and everybody gets floor(L / S) of that home or one more, at most ceil(home M / N). Who gets one
    more sits first at that table (`_tables`): such seats are dealt round a common table, home after home, so that all have as
    many in the end, M units each. Seats are random, so subnetworks are exchangeable: each holds a unit with the mean of the
    unit's copies over S, M / N. With a smaller share of a home than ceil(home M / N) no draw could give every unit that.
    """
    num_subnets, slots = current_SxM.shape
    copies_key, tables_key = jax.random.split(key)
    unit_C, place_H = _copies(copies_key, size, num_subnets, slots)
    home_C, number_C = unit_C // home_size(size, num_subnets), jnp.arange(num_subnets * slots)
    begin_H = jnp.full(num_subnets, number_C.size).at[home_C].min(number_C)
    table_HxS = _tables(tables_key, jnp.bincount(home_C, length=num_subnets), place_H)
    holder_C = table_HxS[home_C, (number_C - begin_H[home_C]) % num_subnets]
    held_SxN = jnp.zeros((num_subnets, size), bool).at[holder_C, unit_C].set(True)
    return jnp.sort(jnp.where(held_SxN, jnp.arange(size)[None], size), axis=1)[:, :slots].astype(
        jnp.int32
    )


def _copies(key: Key, size: int, num_subnets: int, slots: int) -> tuple[Array, Array]:
    """S M copies of units in a row, and every home's place in it: homes at random, and at random the units of each.

    The unit at place r has floor(((r + 1) S M + u) / N) - floor((r S M + u) / N) copies, u one random number of 0 .. N - 1: a
    systematic sample, whose mean over u is S M / N exactly (Hermite's identity).
    """
    home_key, unit_key, start_key = jax.random.split(key, 3)
    copies, home = num_subnets * slots, home_size(size, num_subnets)
    place_H = jax.random.permutation(home_key, num_subnets)
    row_N = jnp.lexsort((jax.random.uniform(unit_key, (size,)), place_H[jnp.arange(size) // home]))
    whole, rest = (
        jnp.asarray(part, jnp.int32)
        for part in np.divmod(np.arange(size + 1, dtype=np.int64) * copies, size)
    )
    count_N = jnp.diff(whole + (rest + jax.random.randint(start_key, (), 0, size) >= size))
    return jnp.repeat(row_N, count_N, total_repeat_length=copies), place_H


def _tables(key: Key, length_H: Array, place_H: Array) -> Array:
    """[H, S]: the subnetworks at every home's table, of which the first `length_H` mod S are dealt from home to home."""
    seat_key, table_key = jax.random.split(key)
    num_subnets = length_H.size
    more_H = length_H % num_subnets
    earlier_H = jnp.where(place_H[None] < place_H[:, None], more_H[None], 0).sum(axis=1)
    seat_S = jax.random.permutation(seat_key, num_subnets)
    has_more_HxS = (seat_S[None] - earlier_H[:, None]) % num_subnets < more_H[:, None]
    return jnp.argsort(jax.random.uniform(table_key, has_more_HxS.shape) - has_more_HxS, axis=1)


def _rolling(key: Key, current_SxM: Array, size: int) -> Array:
    del key
    return jnp.sort(jnp.where(current_SxM < size, (current_SxM + 1) % size, size), axis=1)


def _fixed(key: Key, current_SxM: Array, size: int) -> Array:
    del key, size
    return current_SxM


DEALS = {
    "balanced": _balanced,
    "uniform": _uniform,
    "blocks": _blocks,
    "rolling": _rolling,
    "fixed": _fixed,
}
OVERLAPPING = {"balanced": _balanced_overlapping, "blocks": _blocks_overlapping}


def _first(name: str, size: int, num_subnets: int, slots: int, overlaps: bool) -> Array:
    """What is held before the first deal: the units dealt in order ('balanced'), or contiguous slices, as equal as possible.

    With overlap all have `slots` units: those of 'balanced' are drawn, of others the last slices reach back.
    """
    if name == "balanced" and overlaps:
        return _balanced_overlapping(
            jax.random.key(0), jnp.zeros((num_subnets, slots), jnp.int32), size
        )
    if name == "balanced":
        return _sorted_rows(jnp.arange(size, dtype=jnp.int32), size, num_subnets)
    count_S = np.array([len(part) for part in np.array_split(np.arange(size), num_subnets)])
    start_S = np.cumsum(count_S) - count_S
    if overlaps:
        start_S, count_S = np.minimum(start_S, size - slots), np.full(num_subnets, slots)
    unit_SxM = start_S[:, None] + np.arange(slots)
    return jnp.asarray(np.where(np.arange(slots) < count_S[:, None], unit_SxM, size), jnp.int32)


def partition(
    name: str,
    sizes: Mapping[str, int],
    num_subnets: int,
    *,
    min_units: int = 0,
    travelling: Iterable[str] = (),
) -> Partition:
    """The partition `name` of groups of the given sizes over S subnetworks.

    Args:
      name: 'balanced', 'uniform', 'blocks', 'rolling' or 'fixed'.
      sizes: group -> number of units; empty for methods that do not decompose.
      num_subnets: S.
      min_units: for 'balanced' and 'blocks', how many units every subnetwork holds at least. Above N / S subnetworks
        overlap, and every unit is still held by one of them.
      travelling: for 'balanced', the groups that are dealt by their holders instead of by homes.

    Raises:
      ValueError: unknown name, a group smaller than S, `min_units` larger than a group or with another partition, or
        travelling groups that are none, that overlap, or not with 'balanced'.
    """
    if name not in DEALS:
        raise ValueError(f"partition is one of {sorted(DEALS)}, not {name!r}")
    if num_subnets < 1:
        raise ValueError(f"num_subnets is at least 1, not {num_subnets}")
    if min_units and name not in EQUAL_BLOCKS:
        raise ValueError(
            f"min_units={min_units} goes with the partitions {EQUAL_BLOCKS} only, not with {name!r}"
        )
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
            raise ValueError(
                f"min_units={min_units} is more than the {size} units of group {group!r}"
            )
    slots = {group: max(home_size(size, num_subnets), min_units) for group, size in sizes.items()}
    parts = Partition(
        name,
        num_subnets,
        dict(sizes),
        slots,
        lambda: {},
        lambda key, current: {},
        min_units,
        travelling,
    )
    if travelling & parts.overlapping:
        raise ValueError(
            f"a travelling unit has one holder, and min_units={min_units} gives it several: travelling=()"
        )

    def first() -> Indices:
        return {
            group: _first(name, sizes[group], num_subnets, slots[group], group in parts.overlapping)
            for group in sizes
        }

    def deal(group: str) -> Callable[[Key, Array, int], Array]:
        if group in parts.overlapping:
            return OVERLAPPING[name]
        return _travelling if group in travelling else DEALS[name]

    def sample(key: Key, current: Indices) -> Indices:
        keys = jax.random.split(key, max(len(sizes), 1))
        return {
            group: deal(group)(k, current[group], sizes[group])
            for k, group in zip(keys, sorted(sizes))
        }

    return parts._replace(first=first, sample=sample)


def uneven_groups(sizes: Mapping[str, int], num_subnets: int) -> dict[str, int]:
    """The groups that S does not divide, so that some subnetworks are padded."""
    return {group: size for group, size in sizes.items() if size % num_subnets}
