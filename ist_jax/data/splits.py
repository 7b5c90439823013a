"""How workers see the training data: all of it, a shard each, or a shard each with its own mix of labels."""

import numpy as np

from ist_jax.core.sample_order import Shards
from ist_jax.data.raw import DataError

SPLITS = ("shared", "disjoint", "dirichlet")


def _from_parts(parts: list[np.ndarray]) -> Shards:
    size_S = np.array([len(part) for part in parts], np.int32)
    if not size_S.all():
        raise DataError(
            f"every worker needs an example, and a split gave them {size_S.tolist()}: use fewer workers"
        )
    start_S = (np.cumsum(size_S) - size_S).astype(np.int32)
    return Shards(np.concatenate(parts).astype(np.int32), start_S, size_S)


def shared(y: np.ndarray, num_workers: int) -> Shards:
    """Every worker draws from everything, in an order of its own."""
    start_S = np.zeros(num_workers, np.int32)
    return Shards(
        np.arange(len(y), dtype=np.int32), start_S, np.full(num_workers, len(y), np.int32)
    )


def disjoint(y: np.ndarray, num_workers: int, seed: int) -> Shards:
    """A random shard each, sizes equal to +-1."""
    return _from_parts(np.array_split(np.random.default_rng(seed).permutation(len(y)), num_workers))


def dirichlet(y: np.ndarray, num_workers: int, seed: int, alpha: float) -> Shards:
    """Non-IID: every class is dealt in shares drawn from a symmetric Dirichlet(alpha) (Hsu et al., 2019).

    A draw that leaves a worker without examples is repeated.

    Raises:
      DataError: 1,000 draws left a worker empty.
    """
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        hands: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
        for label in np.unique(y):
            members = rng.permutation(np.flatnonzero(y == label))
            edges = np.cumsum(rng.dirichlet(np.full(num_workers, alpha)))[:-1] * len(members)
            for hand, part in zip(hands, np.split(members, edges.astype(int))):
                hand.append(part)
        parts = [np.concatenate(hand) for hand in hands]
        if all(map(len, parts)):
            return _from_parts(parts)
    raise DataError(
        f"dirichlet: alpha={alpha} leaves some of {num_workers} workers without examples; use a larger alpha"
    )


def shards_of(split: str, seed: int, alpha: float, y: np.ndarray, num_workers: int) -> Shards:
    """The shards of `split`, one of `SPLITS`."""
    if split == "shared":
        return shared(y, num_workers)
    if split == "disjoint":
        return disjoint(y, num_workers, seed)
    if split == "dirichlet":
        return dirichlet(y, num_workers, seed, alpha)
    raise ValueError(f"data.split is one of {SPLITS}, not {split!r}")
