"""The order in which workers see their examples.

Every worker draws its examples without replacement, in a random order that is new in each pass. A
batch may take the last examples of one pass and the first of the next. The example at position p of
a worker's stream is a pure function of (key, worker, p). No order is stored, so a resumed run,
another placement and another host see the same examples.

A stored permutation would need S sorts of the data set in every round. Instead, a keyed bijection
of 0 .. N - 1 maps positions to examples. It multiplies by odd numbers, adds, and xor-shifts, modulo
a power of two; each operation is invertible. It repeats until the value is below N (cycle walking;
Black and Rogaway, CT-RSA 2002).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ist_jax.core.types import AnyArray, Array, Key

_ROUNDS = 6


class Shards(NamedTuple):
    """Worker s draws its examples from `member_N[start_S[s] : start_S[s] + size_S[s]]`."""

    member_N: AnyArray
    start_S: AnyArray
    size_S: AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByDevice:
    """Values that are sharded over the devices of a mesh along their leading axis.

    A function that a placement runs on a device receives the part of that device.
    """

    tree: Any


def is_by_device(value: Any) -> bool:
    """Whether `value` is a `ByDevice`, for the `is_leaf=` of tree functions."""
    return isinstance(value, ByDevice)


def local_part(tree: Any) -> Any:
    """`tree` inside a device's function: `ByDevice` is unwrapped, since it holds the local part."""
    return jax.tree.map(
        lambda leaf: leaf.tree if is_by_device(leaf) else leaf, tree, is_leaf=is_by_device
    )


class View(NamedTuple):
    """The examples that a round may index.

    Attributes:
      arrays: the data, on the devices. A batch is a gather of examples from them. A plain array
        has all examples on every device; a `ByDevice` has only those of the device's workers.
      shards: the examples of each worker, as indices into `arrays` on its device.
      key: the key of the data order, the same in every round.
      first: for streamed data, the stream position at which `arrays` starts, the same for all
        workers; `arrays` then has each worker's examples in the order of its stream. None for data
        in memory.
    """

    arrays: Any
    shards: Shards
    key: Key
    first: Array | None = None


def split_by_device(shards: Shards, devices: int) -> tuple[np.ndarray, Shards]:
    """Splits examples among devices: each device gets those of its workers.

    Args:
      shards: the examples of S workers. No two workers share an example.
      devices: R, a divisor of S.

    Returns:
      (int32[R, n], Shards): the examples of every device, and the shards of the S workers as
      indices into their device's row. Shorter rows are padded by repeating their examples; no
      worker draws from the padding.
    """
    size_RxP = np.asarray(shards.size_S).reshape(devices, -1)
    begin_RxP = np.asarray(shards.start_S).reshape(devices, -1)

    def members(begin_P: np.ndarray, size_P: np.ndarray) -> np.ndarray:
        slices = [slice(begin, begin + size) for begin, size in zip(begin_P, size_P)]
        return np.concatenate([np.asarray(shards.member_N[part]) for part in slices])

    parts = list(map(members, begin_RxP, size_RxP))
    longest = max(map(len, parts))
    start_S = (np.cumsum(size_RxP, axis=1) - size_RxP).reshape(-1).astype(np.int32)
    local = Shards(np.arange(longest, dtype=np.int32), start_S, shards.size_S)
    return np.stack([np.resize(part, longest) for part in parts]), local


def permuted(key: Key, position: Array, size: Array) -> Array:
    """The element at `position` of a pseudo-random permutation of 0 .. size - 1.

    Args:
      key: the PRNG key of the permutation.
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

    is_outside = lambda x: x >= size.astype(jnp.uint32)
    start = scramble(position.astype(jnp.uint32))
    return lax.while_loop(is_outside, scramble, start).astype(jnp.int32)


def draw(view: View, worker: Array, position: Array, count: int) -> Array:
    """The examples at `position` .. `position + count - 1` of a worker's stream.

    Args:
      view: the examples that the round may index.
      worker: int32[], the worker's number.
      position: int32[], number of examples that the worker drew before.
      count: number of examples to draw.

    Returns:
      int32[count], indices into `view.arrays`.
    """
    start, size = view.shards.start_S[worker], view.shards.size_S[worker]
    worker_key = jax.random.fold_in(view.key, worker)
    position_B = position + jnp.arange(count, dtype=jnp.int32)
    if view.first is not None:
        return view.shards.member_N[start + position_B - view.first]
    pass_B, place_B = position_B // size, position_B % size

    def fill_in_pass(number: Array, element_B: Array) -> Array:
        key = jax.random.fold_in(worker_key, number)
        of_this_B = jax.vmap(lambda place: permuted(key, place, size))(place_B)
        return jnp.where(pass_B == number, of_this_B, element_B)

    # Deriving a key costs many times as much as permuting a place. So this loop derives one key per
    # pass, and most batches lie within one pass.
    zeros_B = jnp.zeros(count, jnp.int32)
    element_B = lax.fori_loop(pass_B[0], pass_B[-1] + 1, fill_in_pass, zeros_B)
    return view.shards.member_N[start + element_B]
