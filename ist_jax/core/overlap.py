"""The 'balanced' partition where units have several holders (a minimum depth, as in ResIST).

S subnetworks hold M of N units each, with S M > N. An assignment meets four conditions:

  - Every unit has a holder, and the holder counts of any two units differ by at most one.
  - Every subnetwork holds M different units.
  - Every subnetwork holds each unit with probability M / N.
  - A subnetwork holds at most ceil(home size x M / N) units of a home, so that a mesh can send
    equal blocks. By the third condition it holds home size x M / N on average, so no smaller
    bound is possible.

It takes three steps. Example: N = 6 units, S = 3 subnetworks, M = 4, homes {0, 1}, {2, 3}, {4, 5}.

 1. *Apportion copies.* Make S M = 12 copies of the 6 units: 2 of each. They form one row, home by
    home. The homes are in random order, and so are the units of each home:

        home 1: 3 3 2 2     home 0: 0 0 1 1     home 2: 5 5 4 4

 2. *Place the remainders.* Each home has 4 copies for 3 subnetworks: one for each, and 1 left over.
    The homes, in the order of the row, give their extra copies to the subnetworks in turn. The
    subnetworks are in random order, say 2, 0, 1. So home 1 gives its extra copy to subnetwork 2,
    home 0 to subnetwork 0, and home 2 to subnetwork 1.

 3. *Round-robin.* Each home lists the subnetworks in random order, those with an extra copy first,
    and assigns its copies in turn:

        home 1 in the order 2 0 1: 3 -> 2, 3 -> 0, 2 -> 1, 2 -> 2
        home 0 in the order 0 2 1: 0 -> 0, 0 -> 2, 1 -> 1, 1 -> 0
        home 2 in the order 1 0 2: 5 -> 1, 5 -> 0, 4 -> 2, 4 -> 1

    Subnetwork 0 now holds {0, 1, 3, 5}, subnetwork 1 {1, 2, 4, 5} and subnetwork 2 {0, 2, 3, 4}.

A unit has at most S copies, which are neighbours in the row. So they go to different subnetworks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.assignment import home_size
from ist_jax.core.types import Array, Key


def balanced_with_overlap(key: Key, current_SxM: Array, size: int) -> Array:
    """int32[S, M]: the units that each subnetwork holds next, sorted.

    Args:
      key: PRNG key.
      current_SxM: only its shape is used, which gives S and M.
      size: N.
    """
    num_subnets, slots = current_SxM.shape
    copies_key, orders_key = jax.random.split(key)
    unit_C, place_H = _apportion_copies(copies_key, size, num_subnets, slots)
    home_C = unit_C // home_size(size, num_subnets)
    length_H = jnp.bincount(home_C, length=num_subnets)
    order_HxS = _orders_with_extras_first(orders_key, length_H, place_H)
    holder_C = assign_copies(home_C, order_HxS)
    held_SxN = jnp.zeros((num_subnets, size), bool).at[holder_C, unit_C].set(True)
    unit_SxN = jnp.where(held_SxN, jnp.arange(size)[None], size)
    return jnp.sort(unit_SxN, axis=1)[:, :slots].astype(jnp.int32)


def _apportion_copies(key: Key, size: int, num_subnets: int, slots: int) -> tuple[Array, Array]:
    """Step 1. (int32[S M], the unit of every copy in the row; int32[H], each home's place in it).

    One number u is drawn from 0 .. N - 1. The first r units of the row then have, together,

        floor((r S M + u) / N) copies.

    A unit has the difference between two such totals. On average over u, that is exactly S M / N
    copies (Hermite's identity). For every u, any n neighbouring units have n S M / N copies
    together, rounded up or down. This is systematic sampling.
    """
    home_key, unit_key, start_key = jax.random.split(key, 3)
    num_copies = num_subnets * slots
    place_H = jax.random.permutation(home_key, num_subnets)
    place_N = place_H[jnp.arange(size) // home_size(size, num_subnets)]
    row_N = jnp.lexsort((jax.random.uniform(unit_key, (size,)), place_N))
    # computed on the host in 64 bits, since N S M may not fit into 32
    quotient, remainder = np.divmod(np.arange(size + 1, dtype=np.int64) * num_copies, size)
    quotient, remainder = jnp.asarray(quotient, jnp.int32), jnp.asarray(remainder, jnp.int32)
    u = jax.random.randint(start_key, (), 0, size)
    count_N = jnp.diff(quotient + (remainder + u >= size))
    return jnp.repeat(row_N, count_N, total_repeat_length=num_copies), place_H


def _orders_with_extras_first(key: Key, length_H: Array, place_H: Array) -> Array:
    """Step 2. int32[H, S]: each home's order of the subnetworks, those with an extra copy first.

    Args:
      key: PRNG key.
      length_H: number of copies of every home; `length_H % S` of them are extra.
      place_H: the place of every home in the row.
    """
    rotation_key, order_key = jax.random.split(key)
    num_subnets = length_H.size
    extra_H = length_H % num_subnets
    is_earlier_HxH = place_H[None] < place_H[:, None]
    earlier_H = jnp.where(is_earlier_HxH, extra_H[None], 0).sum(axis=1)
    turn_S = jax.random.permutation(rotation_key, num_subnets)
    has_extra_HxS = (turn_S[None] - earlier_H[:, None]) % num_subnets < extra_H[:, None]
    random_HxS = jax.random.uniform(order_key, has_extra_HxS.shape)
    return jnp.argsort(random_HxS - has_extra_HxS, axis=1)


def assign_copies(home_C: Array, order_HxS: Array) -> Array:
    """Step 3. int32[C]: the subnetwork that gets each copy.

    Args:
      home_C: the home of every copy. The copies of one home are neighbours.
      order_HxS: each home's order of the subnetworks, which it repeats until all copies are
        assigned.
    """
    num_homes, num_subnets = order_HxS.shape
    number_C = jnp.arange(home_C.size)
    begin_H = jnp.full(num_homes, number_C.size).at[home_C].min(number_C)
    return order_HxS[home_C, (number_C - begin_H[home_C]) % num_subnets]
