"""Which training examples each worker draws from: all, a random shard, or a non-IID shard."""

import numpy as np

from ist_jax.core.sample_order import Shards
from ist_jax.data.raw import DataError

SPLITS = ("shared", "disjoint", "dirichlet")


def _from_parts(parts: list[np.ndarray]) -> Shards:
    size_S = np.array([len(part) for part in parts], np.int32)
    if not size_S.all():
        raise DataError(
            f"every worker needs an example, and the split gives the workers {size_S.tolist()}: "
            f"use fewer workers"
        )
    start_S = (np.cumsum(size_S) - size_S).astype(np.int32)
    return Shards(np.concatenate(parts).astype(np.int32), start_S, size_S)


def shared(y: np.ndarray, num_workers: int) -> Shards:
    """Every worker draws from all examples, each in a different order."""
    start_S, size_S = np.zeros(num_workers, np.int32), np.full(num_workers, len(y), np.int32)
    return Shards(np.arange(len(y), dtype=np.int32), start_S, size_S)


def disjoint(y: np.ndarray, num_workers: int, seed: int) -> Shards:
    """Every worker draws from a random shard. Sizes differ by one at most.

    Raises:
      DataError: there are fewer examples than workers.
    """
    return _from_parts(np.array_split(np.random.default_rng(seed).permutation(len(y)), num_workers))


def dirichlet(y: np.ndarray, num_workers: int, seed: int, alpha: float) -> Shards:
    """Non-IID shards: every class is divided by a draw from Dirichlet(alpha) (Hsu et al., 2019).

    Draws that leave a worker without examples are repeated.

    Raises:
      DataError: 1,000 draws left a worker empty.
    """
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        parts_S: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
        for label in np.unique(y):
            members = rng.permutation(np.flatnonzero(y == label))
            edges = np.cumsum(rng.dirichlet(np.full(num_workers, alpha)))[:-1] * len(members)
            for parts, part in zip(parts_S, np.split(members, edges.astype(int))):
                parts.append(part)
        shards = [np.concatenate(parts) for parts in parts_S]
        if all(map(len, shards)):
            return _from_parts(shards)
    raise DataError(
        f"dirichlet: alpha={alpha} leaves some of {num_workers} workers without examples; "
        f"use a larger alpha"
    )


def check_split(split: str, task: str) -> None:
    """Raises DataError if `split` needs classes, and data of `task` have none."""
    if split == "dirichlet" and not task.endswith("classification"):
        raise DataError(
            f"data.split='dirichlet' divides classes among workers, and the data are {task}: "
            "use disjoint or shared"
        )


def shards_of(split: str, seed: int, alpha: float, y: np.ndarray, num_workers: int) -> Shards:
    """The workers' shards of training examples with labels `y`.

    Raises:
      DataError: a worker would get no examples.
      ValueError: `split` is not one of `SPLITS`.
    """
    if split == "shared":
        return shared(y, num_workers)
    if split == "disjoint":
        return disjoint(y, num_workers, seed)
    if split == "dirichlet":
        return dirichlet(y, num_workers, seed, alpha)
    raise ValueError(f"data.split is one of {SPLITS}, not {split!r}")
