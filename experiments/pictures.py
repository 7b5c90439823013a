"""Pictures of what the mechanism does."""

import pathlib

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from ist_jax.algorithms import drawn
from ist_jax.partition import Partition


def holders(parts: Partition, group: str, seed: int, rounds: int) -> np.ndarray:
    """int[rounds, N]: the subnetwork that holds each unit of `group` in the first rounds (the last of several)."""
    size = parts.sizes[group]
    found_RxN = np.full((rounds, size + 1), -1)  # one past the end: padding
    for round, indices in enumerate(drawn(parts, seed, rounds)):
        for subnet, index_M in enumerate(np.asarray(indices[group])):
            found_RxN[round, index_M] = subnet
    return found_RxN[:, :size]


def partition(parts: Partition, group: str, picture: str | pathlib.Path, *, seed: int = 0, rounds: int = 6) -> None:
    """Draws which units of `group` each subnetwork holds: a row per round, a colour per subnetwork; PNG."""
    figure, axis = plt.subplots(figsize=(10, 0.4 * rounds + 1), layout="constrained")
    colours = plt.get_cmap("tab10" if parts.num_subnets <= 10 else "turbo", parts.num_subnets)
    shown = axis.imshow(
        holders(parts, group, seed, rounds),
        cmap=colours,
        vmin=-0.5,
        vmax=parts.num_subnets - 0.5,
        aspect="auto",
        interpolation="nearest",
    )
    axis.set(xlabel=f"unit of {group}", ylabel="round", yticks=range(rounds), yticklabels=range(1, rounds + 1))
    figure.colorbar(shown, label="subnetwork", ticks=range(parts.num_subnets))
    figure.savefig(picture, dpi=110)
    plt.close(figure)
