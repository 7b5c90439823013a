"""Pictures of what the mechanism does."""

import functools
import pathlib

import matplotlib

matplotlib.use("agg")
import jax
import matplotlib.pyplot as plt
import numpy as np

from ist_jax.cli import builders
from ist_jax.cli.records.restored import restore
from ist_jax.core.graphs import Graph
from ist_jax.core.keys import named_key
from ist_jax.core.partition import Partition
from ist_jax.core.types import Array, Params
from ist_jax.methods import drawn_partitions
from ist_jax.models.linen import LinenModel, inputs_of


def holders(parts: Partition, group: str, seed: int, rounds: int) -> np.ndarray:
    """int[rounds, N]: the subnetwork that holds each unit of `group` in the first rounds.

    Raises:
      ValueError: a unit has several holders.
    """
    size = parts.sizes[group]
    found_RxN = np.full((rounds, size + 1), -1)  # one past the end: padding
    for round, indices in enumerate(drawn_partitions(parts, seed, rounds)):
        for subnet, index_M in enumerate(np.asarray(indices[group])):
            if (found_RxN[round, index_M[index_M < size]] >= 0).any():
                raise ValueError(
                    f"units of {group!r} have several holders: a picture of min_blocks=0 has one colour each"
                )
            found_RxN[round, index_M] = subnet
    return found_RxN[:, :size]


def partition(
    parts: Partition, group: str, picture: str | pathlib.Path, *, seed: int = 0, rounds: int = 6
) -> None:
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
    axis.set(
        xlabel=f"unit of {group}",
        ylabel="round",
        yticks=range(rounds),
        yticklabels=range(1, rounds + 1),
    )
    figure.colorbar(shown, label="subnetwork", ticks=range(parts.num_subnets))
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def embeddings(model: LinenModel, params: Params, graph: Graph) -> Array:
    """[N, H]: what the layer of a graph network that is called 'output' reads of every node."""
    read = inputs_of(model, "output", params, graph)
    return read.reshape(read.shape[0], -1)


def projected(x_NxH: np.ndarray) -> np.ndarray:
    """[N, 2]: the two directions in which the rows differ most (principal components)."""
    centred_NxH = x_NxH - x_NxH.mean(axis=0)
    return centred_NxH @ np.linalg.svd(centred_NxH, full_matrices=False)[2][:2].T


def nodes(workdir: str | pathlib.Path, picture: str | pathlib.Path) -> None:
    """Draws the whole model's embeddings of all nodes of a run's graph, before training and after, by class; PNG.

    Raises:
      ConfigError: no run in `workdir`, or its data are not where its configuration says.
    """
    run = restore(workdir)
    arrays = builders.load_dataset(run.experiment.config).arrays("test")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    first = run.method.fresh(named_key(jax.random.key(run.experiment.config.seed), "init"))
    for axis, title, state in ((axes[0], "before", first), (axes[1], "after", run.state)):
        params = jax.jit(run.method.params)(state)
        found_NxH = jax.jit(functools.partial(embeddings, run.experiment.decomposition.full))(
            params, arrays["graph"]
        )
        shown = axis.scatter(
            *projected(np.asarray(found_NxH)).T, c=arrays["label_N"], cmap="tab10", s=4
        )
        axis.set(title=f"{title} training", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="class")
    figure.savefig(picture, dpi=110)
    plt.close(figure)
