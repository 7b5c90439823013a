"""Which training examples are held out for validation.

The choice is random, but the same in every call, so that runs with several seeds are validated
alike. Groups, such as the clips of one speaker, are never divided.
"""

from typing import NamedTuple

import numpy as np


def random_share(size: int, fraction: float) -> np.ndarray:
    """bool[size]: a random share of `size` examples, the same in every call."""
    chosen = np.random.default_rng(0).permutation(size)[: round(fraction * size)]
    return np.isin(np.arange(size), chosen)


def held_out(y_N: np.ndarray, group_N: np.ndarray | None, fraction: float) -> np.ndarray:
    """bool[N]: which examples are held out, a random share.

    Every class keeps a training example, unless a group would have to be divided.

    Args:
      y_N: int, the labels, counted from 0.
      group_N: the group of every example; None: every example is its own group.
      fraction: share of the examples.
    """
    size = len(y_N)
    if group_N is None:
        group_N, chosen_N = np.arange(size), random_share(size, fraction)
    else:
        _, group_N = np.unique(group_N, return_inverse=True)
        order = np.random.default_rng(0).permutation(group_N.max() + 1)
        before = np.concatenate([[0], np.cumsum(np.bincount(group_N)[order])[:-1]])
        chosen_N = np.isin(group_N, order[before < round(fraction * size)])
    if chosen_N.all():  # the caller refuses it
        return chosen_N
    return _with_all_classes(_Split(chosen_N, y_N.astype(np.int64), group_N))


class _Split(NamedTuple):
    """A division into training examples and held-out examples.

    Attributes:
      held_out_N: bool, whether an example is held out.
      y_N: int64, the labels.
      group_N: int, the groups, counted from 0.
    """

    held_out_N: np.ndarray
    y_N: np.ndarray
    group_N: np.ndarray

    def lost_classes(self) -> np.ndarray:
        """The classes whose examples are all held out."""
        return np.setdiff1d(self.y_N, self.y_N[~self.held_out_N])

    def moved(self, group: int) -> "_Split":
        """This split with one group moved to the other side."""
        return self._replace(held_out_N=self.held_out_N ^ (self.group_N == group))


def _with_all_classes(split: _Split) -> np.ndarray:
    """`held_out_N` after groups are exchanged until every class has a training example."""
    for label in split.lost_classes():
        if not (split.y_N[~split.held_out_N] == label).any():  # no group moved back so far has it
            split = _with_class(split, label)
    return split.held_out_N


def _with_class(split: _Split, label: int) -> _Split:
    """`split` with the smallest held-out group of class `label` moved to training.

    A training group of about that size is held out in its place, if there is one without which no
    class is lost.
    """
    size_G = np.bincount(split.group_N)
    having = np.unique(split.group_N[split.held_out_N & (split.y_N == label)])
    back = having[size_G[having].argmin()]
    other = _spare_group(split.moved(back), size_G, back)
    if other is not None:
        return split.moved(back).moved(other)
    return split.moved(back) if split.moved(back).held_out_N.any() else split


def _spare_group(split: _Split, size_G: np.ndarray, like: int) -> int | None:
    """Another training group, about as large as `like`, that no class needs; None without one."""
    y_n, group_n = split.y_N[~split.held_out_N], split.group_N[~split.held_out_N]
    num_classes = y_n.max() + 1
    pair, count = np.unique(group_n * num_classes + y_n, return_counts=True)
    group, label = pair // num_classes, pair % num_classes
    is_needed = count == np.bincount(y_n)[label]  # it has all training examples of that class
    spare = np.setdiff1d(group_n, [*group[is_needed], like])
    if not len(spare):
        return None
    difference = np.abs(size_G[spare] - size_G[like])
    return int(np.random.default_rng(0).choice(spare[difference == difference.min()]))
