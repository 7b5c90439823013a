"""The mean and deviation that normalise inputs (`data.standardise`)."""

import numpy as np

from ist_jax.data.progress import busy
from ist_jax.data.rows import RowStore, mean_and_std, mean_and_std_per_feature
from ist_jax.data.sparse import SparseRows
from ist_jax.data.spec import Moment, as_moment

STANDARDISE = ("whole", "per_feature", "none")


def check_standardise(standardise: str) -> None:
    """Raises ValueError if it is not one of `STANDARDISE`."""
    if standardise not in STANDARDISE:
        raise ValueError(f"standardise is one of {', '.join(STANDARDISE)}, not {standardise!r}")


def moments(x: np.ndarray | RowStore | SparseRows, standardise: str) -> tuple[Moment, Moment]:
    """The mean and deviation with which a task normalises inputs.

    Args:
      x: training inputs [N, ...].
      standardise: 'whole' (of all entries together), 'per_feature' (each entry of an input has its
        own) or 'none' (0 and 1: floats and integers stay as they are). A deviation of 0 becomes 1.

    Raises:
      ValueError: `standardise` is none of these.
    """
    check_standardise(standardise)
    if standardise == "none":
        return 0.0, 1.0
    with busy("mean and deviation"):
        if isinstance(x, SparseRows):
            return x.moments(standardise == "per_feature")
        if standardise == "per_feature":
            mean_F, std_F = mean_and_std_per_feature(x)
            return as_moment(mean_F.tolist()), as_moment(std_F.tolist())
        mean, std = mean_and_std(x)
    return mean, std if std > 0 else 1.0
