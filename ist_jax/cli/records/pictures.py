"""Pictures of partitions, and of what a graph network learns."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from ist_jax.cli import builders
from ist_jax.cli.records import drawing
from ist_jax.cli.records.restored import restore
from ist_jax.core.graphs import Graph
from ist_jax.core.keys import named_key
from ist_jax.core.partition import Partition
from ist_jax.core.types import Array, Params
from ist_jax.methods import drawn_partitions
from ist_jax.models.linen import LinenModel, inputs_of


def holders(parts: Partition, group: str, seed: int, rounds: int) -> np.ndarray:
    """int[rounds, N]: the subnetwork that holds each unit of `group` in every round, or -1.

    Raises:
      ValueError: a unit has several holders.
    """
    size = parts.sizes[group]
    holder_RxN = np.full((rounds, size + 1), -1)  # the last column is for padded units
    for round, indices in enumerate(drawn_partitions(parts, seed, rounds)):
        for subnet, index_M in enumerate(np.asarray(indices[group])):
            if (holder_RxN[round, index_M[index_M < size]] >= 0).any():
                raise ValueError(
                    f"a picture has one colour per unit, and units of {group!r} have several "
                    "holders: draw a partition without overlap (min_blocks=0)"
                )
            holder_RxN[round, index_M] = subnet
    return holder_RxN[:, :size]


def _colours(count: int) -> dict[str, Any]:
    """Arguments of matplotlib that give each of the numbers 0 to count - 1 a colour."""
    colours = drawing.pyplot().get_cmap("tab10" if count <= 10 else "turbo", count)
    return dict(cmap=colours, vmin=-0.5, vmax=count - 0.5)


def partition(
    parts: Partition, group: str, picture: str | pathlib.Path, *, seed: int = 0, rounds: int = 6
) -> None:
    """Draws which units of `group` each subnetwork holds: a row per round, a colour per subnetwork.

    Args:
      parts: the partition of a run.
      group: of units.
      picture: a PNG. An SVG is written beside it.
      seed: of the run.
      rounds: how many rounds are drawn, from the first.

    Raises:
      ValueError: a unit has several holders.
    """
    count = parts.num_subnets
    size = (10, 0.4 * rounds + 1)
    figure, axis = drawing.pyplot().subplots(figsize=size, layout="constrained")
    shown = axis.imshow(
        holders(parts, group, seed, rounds),
        aspect="auto",
        interpolation="nearest",
        **_colours(count),
    )
    axis.set(xlabel=f"unit of {group}", ylabel="round")
    axis.set(yticks=range(rounds), yticklabels=range(1, rounds + 1))
    figure.colorbar(shown, label="subnetwork", ticks=range(count))
    drawing.save(figure, pathlib.Path(picture))


def embeddings(model: LinenModel, params: Params, graph: Graph) -> Array:
    """[N, H]: the input of a graph network's layer "output", for every node."""
    read = inputs_of(model, "output", params, graph)
    return read.reshape(read.shape[0], -1)


def projected(x_NxH: np.ndarray) -> np.ndarray:
    """[N, 2]: the rows projected on their first two principal components."""
    centred_NxH = x_NxH - x_NxH.mean(axis=0)
    return centred_NxH @ np.linalg.svd(centred_NxH, full_matrices=False)[2][:2].T


def nodes(workdir: str | pathlib.Path, picture: str | pathlib.Path) -> None:
    """Draws the `embeddings` of all nodes by the full model, before and after training.

    Args:
      workdir: of a run on a graph.
      picture: a PNG. An SVG is written beside it.

    Raises:
      ConfigError: there is no run in `workdir`.
      DataError: its data are not where its configuration says.
    """
    run = restore(workdir)
    model = run.experiment.decomposition.full
    assert isinstance(model, LinenModel)  # as all that the command line can make
    arrays = builders.load_dataset(run.experiment.config).arrays("test")
    classes = int(np.max(arrays["label_N"])) + 1
    figure, axes = drawing.pyplot().subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    first = run.method.fresh(named_key(jax.random.key(run.experiment.config.seed), "init"))
    for axis, title, state in ((axes[0], "before", first), (axes[1], "after", run.state)):
        params = jax.jit(run.method.params)(state)
        read_NxH = jax.jit(functools.partial(embeddings, model))(params, arrays["graph"])
        points = projected(np.asarray(read_NxH)).T
        shown = axis.scatter(
            *points, c=arrays["label_N"], s=4, rasterized=True, **_colours(classes)
        )
        axis.set(title=f"{title} training", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="class", ticks=range(classes))
    drawing.save(figure, pathlib.Path(picture))
