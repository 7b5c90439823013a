"""The order in which workers see their examples.

Every worker walks a random order of its own examples without replacement, a new order every pass; what
remains of a pass goes into the next step. Position p of a worker's stream is a pure function of (key,
worker, p): nothing is stored, so a resumed run, another placement and another host see the same examples.

A stored permutation would have to be kept or sorted anew every round (S sorts of the data set in the
round's program); instead a position is sent through a keyed bijection of 0..N-1, evaluated where it is
needed: multiplications by odd numbers, additions and xor-shifts modulo a power of two, each invertible,
repeated until the value is below N (cycle walking; Black and Rogaway, CT-RSA 2002).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ist_jax.core.types import Array, Key

_ROUNDS = 6


class Shards(NamedTuple):
    """Which examples each worker draws from: `member_N[start_S[s] : start_S[s] + size_S[s]]`."""

    member_N: Array
    start_S: Array
    size_S: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByDevice:
    """Values of which every device of a mesh has a part, along their leading axis; what is placed there sees that part."""

    tree: Any


def is_by_device(value: Any) -> bool:
    return isinstance(value, ByDevice)


def of_one_device(tree: Any) -> Any:
    """`tree` as one device sees it, its parts in the places of what lies by devices."""
    return jax.tree.map(
        lambda leaf: leaf.tree if is_by_device(leaf) else leaf, tree, is_leaf=is_by_device
    )


class View(NamedTuple):
    """What a round may index.

    Attributes:
      arrays: the data, on the device; a batch is a gather of examples from it. `ByDevice` are those of which every
        device has only what its own workers draw.
      shards: which examples each worker draws, counted in its device's part.
      key: the key of the data order, one for the whole run.
      first: None, or where in the workers' streams `arrays` begin, if these lie in the order in which they are drawn, as
        those of a streamed set do: every worker's examples at positions `first`, `first + 1`, ...
    """

    arrays: Any
    shards: Shards
    key: Key
    first: Array | None = None


def by_device(shards: Shards, devices: int) -> tuple[np.ndarray, Shards]:
    """The examples that the workers of each device draw from, and the same shards counted in their device's part.

    Args:
      shards: of S workers, each with members of its own.
      devices: R, a divisor of S.

    Returns:
      int32[R, n], shorter parts filled with repetitions that nobody draws; Shards of the S workers.
    """
    size_RxP = np.asarray(shards.size_S).reshape(devices, -1)
    begin_RxP = np.asarray(shards.start_S).reshape(devices, -1)
    of_worker = lambda begin, size: np.asarray(shards.member_N[begin : begin + size])
    parts = [
        np.concatenate(list(map(of_worker, begin_P, size_P)))
        for begin_P, size_P in zip(begin_RxP, size_RxP)
    ]
    longest = max(map(len, parts))
    start_S = (np.cumsum(size_RxP, axis=1) - size_RxP).reshape(-1).astype(np.int32)
    local = Shards(np.arange(longest, dtype=np.int32), start_S, shards.size_S)
    return np.stack([np.resize(part, longest) for part in parts]), local


def permuted(key: Key, position: Array, size: Array) -> Array:
    """The element at `position` of the pseudo-random permutation of 0..size-1 that `key` names.

    Args:
      key: one PRNG key.
      position: int32[], 0 <= position < size.
      size: int32[], at least 1 and at most 2**30; may be traced.
    """
    bits = jnp.maximum(32 - lax.clz(jnp.asarray(size - 1, jnp.uint32)), 2)
    mask = (jnp.uint32(1) << bits) - 1
    constants = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)

    def scramble(x: Array) -> Array:
        for factor, offset in constants:
            x = (x * (factor | 1) + offset) & mask
            x = x ^ (x >> (bits + 1) // 2)
        return x

    outside = lambda x: x >= size.astype(jnp.uint32)
    start = scramble(position.astype(jnp.uint32))
    return lax.while_loop(outside, scramble, start).astype(jnp.int32)


def draw(view: View, worker: Array, position: Array, count: int) -> Array:
    """The examples at `position` .. `position + count - 1` of a worker's stream.

    Args:
      view: what may be indexed.
      worker: int32[], which worker.
      position: int32[], how many examples the worker has drawn before.
      count: how many to draw.

    Returns:
      int32[count], indices into `view.arrays`.
    """
    start, size = view.shards.start_S[worker], view.shards.size_S[worker]
    worker_key = jax.random.fold_in(view.key, worker)
    position_B = position + jnp.arange(count, dtype=jnp.int32)
    if view.first is not None:
        return view.shards.member_N[start + position_B - view.first]
    pass_B, place_B = position_B // size, position_B % size

    def of_pass(number: Array, element_B: Array) -> Array:
        key = jax.random.fold_in(worker_key, number)
        of_this_B = jax.vmap(lambda place: permuted(key, place, size))(place_B)
        return jnp.where(pass_B == number, of_this_B, element_B)

    # pass by pass, mostly one: a key is many times dearer than the places in its pass
    element_B = lax.fori_loop(pass_B[0], pass_B[-1] + 1, of_pass, jnp.zeros(count, jnp.int32))
    return view.shards.member_N[start + element_B]
