"""Data sources: one file each; a new one is that file and a line here."""

import functools
import pathlib

import jax

from ist_jax.data import (
    cifar,
    digits,
    digits_graph,
    graph_npz,
    idx,
    npz,
    ogbn,
    planetoid,
    reddit,
    speech_commands,
    tfds,
)
from ist_jax.data.base import Dataset, Spec, make_dataset
from ist_jax.data.graph_dataset import GraphOptions, make_graph_dataset
from ist_jax.data.graphs import RawGraph
from ist_jax.data.raw import DataError, Raw, reraise_as
from ist_jax.data.splits import SPLITS, shards_of
from ist_jax.data.streamed import RawStream, Streamed, make_streamed

SOURCES = {
    "digits": digits.load,
    "idx": idx.load,
    "npz": npz.load,
    "tfds": tfds.load,
    "cifar10": cifar.load10,
    "cifar100": cifar.load100,
    "speech_commands": speech_commands.load,
    "digits_graph": digits_graph.load,
    "planetoid": planetoid.load,
    "graph_npz": graph_npz.load,
    "ogbn_arxiv": ogbn.load_arxiv,
    "ogbn_products": ogbn.load_products,
    "reddit": reddit.load,
}
STREAMS = {"tfds": tfds.stream}  # with `image_size`
EMBEDDED = ("digits", "digits_graph")  # sources that need no folder
SETS = (
    "digits",
    "tfds",
    "speech_commands",
    "planetoid",
    "graph_npz",
)  # sources with several data sets, which `dataset` names
FILES = ("npz", "graph_npz")  # sources whose `directory` is a file
GRAPHS = (
    "digits_graph",
    "planetoid",
    "graph_npz",
    "ogbn_arxiv",
    "ogbn_products",
    "reddit",
)  # with splits of their own


def _check(name: str, directory: str, dataset: str) -> None:
    """What a source does not read would only name the data in records."""
    if name in EMBEDDED and directory:
        raise DataError(
            f"data.dir={directory!r}: data.name={name!r} is embedded and reads no files: set data.dir to nothing"
        )
    if name not in SETS and dataset:
        raise DataError(
            f"data.dataset={dataset!r}: data.name={name!r} is one data set: set data.dataset to nothing"
        )


def _held_out(name: str, validation_fraction: float | None) -> float:
    if validation_fraction is None:
        return 0.1
    if name in GRAPHS:
        raise DataError(
            f"data.name={name!r} has a validation split of its own: leave validation_fraction={validation_fraction} out"
        )
    return validation_fraction


def load(
    name: str,
    directory: str = "",
    dataset: str = "",
    *,
    split: str = "shared",
    alpha: float = 1.0,
    validation_fraction: float | None = None,
    seed: int = 0,
    graph: GraphOptions | None = None,
    stored: bool | None = None,
    image_size: int = 0,
) -> Dataset:
    """A data set by name.

    Args:
      name: a name of `SOURCES`.
      directory: the folder or file it lies in, where it needs one.
      dataset: which of a source's data sets, where it has several.
      split: how workers see the training data: 'shared', 'disjoint' or 'dirichlet'.
      alpha: concentration of the Dirichlet split; smaller is less IID.
      validation_fraction: share of the training examples held out for validation, by default a tenth; graphs have a
        validation split of their own.
      seed: of the disjoint and Dirichlet splits.
      image_size: 0, or the side of a model's images, of a source in `STREAMS`: it is then streamed from disk.
      graph: how a graph is laid out.
      stored: whether training inputs stay in their files until rows of them are asked for; by default, where several processes
        train workers with shards of their own.

    Raises:
      DataError: files missing, empty, truncated, of the wrong shape, or with labels that do not fit.
    """
    if name not in SOURCES:
        raise ValueError(f"data.name is one of {sorted(SOURCES)}, not {name!r}")
    _check(name, directory, dataset)
    held_out = _held_out(name, validation_fraction)
    label = dataset or (directory.rstrip("/").rsplit("/", 1)[-1] if directory else name)
    shards = functools.partial(shards_of, split, seed, alpha)
    source = directory or name
    if image_size:
        if name not in STREAMS:
            raise DataError(
                f"data.image_size={image_size} streams images of {sorted(STREAMS)}, and not of data.name={name!r}"
            )
        if split == "dirichlet":
            raise DataError(
                "data.split='dirichlet' looks at all labels, which a streamed set has on disk: use disjoint or shared"
            )
        stream = STREAMS[name](directory, dataset, image_size)
        return make_streamed(
            stream, label, source=source, validation_fraction=held_out, shards=shards
        )
    with reraise_as(source):
        raw = SOURCES[name](directory, dataset)
    if isinstance(raw, RawGraph):
        cache = str(pathlib.Path(directory).parent) if name in FILES else directory
        return make_graph_dataset(
            raw, label, source=source, options=graph or GraphOptions(), shards=shards, cache=cache
        )
    if stored is None:
        stored = split != "shared" and jax.process_count() > 1
    options = dict(validation_fraction=held_out, shards=shards, stored=stored)
    return make_dataset(raw, label, source=source, **options)


__all__ = [
    "EMBEDDED",
    "FILES",
    "GRAPHS",
    "SETS",
    "SOURCES",
    "SPLITS",
    "STREAMS",
    "DataError",
    "Dataset",
    "GraphOptions",
    "Raw",
    "RawGraph",
    "RawStream",
    "Spec",
    "Streamed",
    "load",
    "make_dataset",
    "make_graph_dataset",
    "make_streamed",
]
