"""Partitions: which units each subnetwork holds, by pure functions of keys and indices.

    balanced  The default. Every owner assigns its units at random, in shares that differ by at
              most one unit. The owner of a unit is its home (as in the authors' partitioned
              parameter server, IST_Release, distributed_*_partitioned_ps) or, in a holder-sharded
              group, the subnetwork that holds it.
    uniform   A random permutation of each group, in equal shares (IST, Yuan et al., VLDB 2022).
    blocks    Like uniform, but the larger shares rotate over the subnetworks (ResIST, Dun et al.,
              UAI 2022, section 3).
    rolling   Contiguous slices that shift by one unit per round (FedRolex, Alam et al., 2022).
    fixed     The slices of the first round, in every round (an ensemble of subnetworks).

'balanced' and 'blocks' accept a minimum number of units per subnetwork (ResIST's minimum depth).
If it is above N / S, units have several holders. 'blocks' draws the extra units from all units;
'balanced' draws about as many from each home (`core.overlap`). With either, all units are held
equally often on average.

Indices are `indices[group]: int32[S, M]`. Rows are sorted. If S does not divide the group's size N,
rows are padded with N. Indices depend on (key, previous indices) alone, so all hosts agree without
communication.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.core import assignment
from ist_jax.core.assignment import Assign, home_size
from ist_jax.core.overlap import balanced_with_overlap
from ist_jax.core.types import Array, Indices, Key

PARTITIONS: dict[str, Assign] = {
    "balanced": assignment.balanced_by_homes,
    "uniform": assignment.uniform,
    "blocks": assignment.blocks,
    "rolling": assignment.rolling,
    "fixed": assignment.fixed,
}
WITH_OVERLAP: dict[str, Assign] = {
    "balanced": balanced_with_overlap,
    "blocks": assignment.blocks_with_overlap,
}
EQUAL_BLOCKS = ("balanced", "blocks")  # the partitions that a mesh can exchange


class Partition(NamedTuple):
    """How the units of every group are assigned to S subnetworks.

    Attributes:
      name: a name of `PARTITIONS`.
      num_subnets: S.
      sizes: group -> number of units N.
      slots: group -> unit slots M of one subnetwork, padding included.
      first: () -> Indices before the first round.
      sample: (key, current) -> Indices of the next round.
      min_units: the least number of units of every group that a subnetwork holds.
      holder_sharded: the groups of 'balanced' whose units are stored and assigned by the
        subnetworks that hold them. The other groups are home-sharded.
    """

    name: str
    num_subnets: int
    sizes: Mapping[str, int]
    slots: Mapping[str, int]
    first: Callable[[], Indices]
    sample: Callable[[Key, Indices], Indices]
    min_units: int = 0
    holder_sharded: frozenset[str] = frozenset()

    @property
    def overlapping(self) -> frozenset[str]:
        """The groups whose units may have several holders."""
        return frozenset(
            group for group, size in self.sizes.items() if self.min_units > size // self.num_subnets
        )

    @property
    def disjoint(self) -> bool:
        """Whether every unit has one holder at most."""
        return not self.overlapping

    @property
    def padded_groups(self) -> dict[str, int]:
        """group -> size, of the groups in which some subnetworks have padding."""
        uneven = uneven_groups(self.sizes, self.num_subnets)
        return {group: size for group, size in uneven.items() if group not in self.overlapping}

    def with_holder_sharded(self, groups: Iterable[str]) -> "Partition":
        """The same partition with `groups` as its holder-sharded groups.

        Raises:
          ValueError: as `partition` raises for `holder_sharded`.
        """
        groups = frozenset(groups)
        if groups == self.holder_sharded:
            return self
        return partition(
            self.name,
            self.sizes,
            self.num_subnets,
            min_units=self.min_units,
            holder_sharded=groups,
        )

    @property
    def equal_blocks(self) -> bool:
        """Whether a mesh can exchange it, in equal blocks of `block_units` units."""
        return not self.sizes or self.name in EQUAL_BLOCKS

    def block_units(self, group: str) -> int:
        """K: the most units of `group` that one owner can send to one subnetwork."""
        size, slots = self.sizes[group], self.slots[group]
        home = home_size(size, self.num_subnets)
        if self.name != "balanced":
            return min(home, slots)
        equal_share = -(-home // self.num_subnets)
        if group not in self.overlapping:
            return equal_share
        return max(equal_share, -(-home * slots // size))


def uneven_groups(sizes: Mapping[str, int], num_subnets: int) -> dict[str, int]:
    """The groups whose size S does not divide, so that some subnetworks are padded."""
    return {group: size for group, size in sizes.items() if size % num_subnets}


def partition(
    name: str,
    sizes: Mapping[str, int],
    num_subnets: int,
    *,
    min_units: int = 0,
    holder_sharded: Iterable[str] = (),
) -> Partition:
    """The partition `name` of groups of the given sizes over S subnetworks.

    Args:
      name: 'balanced', 'uniform', 'blocks', 'rolling' or 'fixed'.
      sizes: group -> number of units; empty for methods that do not decompose.
      num_subnets: S.
      min_units: for 'balanced' and 'blocks', the least number of units that a subnetwork holds. If
        it is above N / S, units have several holders.
      holder_sharded: for 'balanced', the groups whose units are assigned by their holders instead
        of their homes.

    Raises:
      ValueError: `name` is unknown; a group has fewer than S units; `min_units` is larger than a
        group, or the partition does not accept it; `holder_sharded` names an unknown or overlapping
        group, or the partition is not 'balanced'.
    """
    holder_sharded = frozenset(holder_sharded)
    _check(name, sizes, num_subnets, min_units, holder_sharded)
    slots = {group: max(home_size(size, num_subnets), min_units) for group, size in sizes.items()}
    overlaps = {group: min_units > size // num_subnets for group, size in sizes.items()}

    def first() -> Indices:
        return {
            group: _first(name, size, num_subnets, slots[group], overlaps[group])
            for group, size in sizes.items()
        }

    def assign_of(group: str) -> Assign:
        if overlaps[group]:
            return WITH_OVERLAP[name]
        by_holders = group in holder_sharded
        return assignment.balanced_by_holders if by_holders else PARTITIONS[name]

    def sample(key: Key, current: Indices) -> Indices:
        groups = sorted(sizes)
        keys = jax.random.split(key, max(len(groups), 1))
        return {
            group: assign_of(group)(group_key, current[group], sizes[group])
            for group_key, group in zip(keys, groups)
        }

    return Partition(
        name, num_subnets, dict(sizes), slots, first, sample, min_units, holder_sharded
    )


def _first(name: str, size: int, num_subnets: int, slots: int, overlaps: bool) -> Array:
    """int32[S, M]: the units of one group before the first round.

    'balanced' assigns units round-robin or, with overlap, draws them with a constant key. The
    others assign slices.
    """
    if name != "balanced":
        return assignment.slices(size, num_subnets, slots, overlaps)
    if overlaps:
        none_SxM = jnp.zeros((num_subnets, slots), jnp.int32)
        return balanced_with_overlap(jax.random.key(0), none_SxM, size)
    return assignment.round_robin(jnp.arange(size, dtype=jnp.int32), size, num_subnets)


def _check(
    name: str,
    sizes: Mapping[str, int],
    num_subnets: int,
    min_units: int,
    holder_sharded: frozenset[str],
) -> None:
    if name not in PARTITIONS:
        raise ValueError(f"partition is one of {sorted(PARTITIONS)}, not {name!r}")
    if num_subnets < 1:
        raise ValueError(f"num_subnets is at least 1, not {num_subnets}")
    if min_units and name not in EQUAL_BLOCKS:
        raise ValueError(
            f"min_units needs one of the partitions {EQUAL_BLOCKS}, not {name!r}: "
            f"change the partition, or set min_units={min_units} to 0"
        )
    for group, size in sizes.items():
        if size < num_subnets:
            raise ValueError(
                f"every subnetwork holds a unit of every group: group {group!r} has {size} units "
                f"for num_subnets={num_subnets}; use at most {size} subnetworks or a wider layer"
            )
        if min_units > size:
            raise ValueError(
                f"min_units={min_units} is more than the {size} units of group {group!r}: "
                f"set min_units to {size} or less"
            )
    _check_holder_sharded(name, sizes, num_subnets, min_units, holder_sharded)


def _check_holder_sharded(
    name: str,
    sizes: Mapping[str, int],
    num_subnets: int,
    min_units: int,
    holder_sharded: frozenset[str],
) -> None:
    if unknown := sorted(holder_sharded - set(sizes)):
        raise ValueError(f"holder_sharded names groups of {sorted(sizes)}, not {unknown}")
    if holder_sharded and name != "balanced":
        raise ValueError(
            f"holder_sharded={sorted(holder_sharded)} needs the partition 'balanced', not {name!r}"
        )
    if overlapping := [g for g in sorted(holder_sharded) if min_units > sizes[g] // num_subnets]:
        raise ValueError(
            f"a holder-sharded unit has one holder, and min_units={min_units} gives units of "
            f"{overlapping} several holders: leave these groups out of holder_sharded"
        )
