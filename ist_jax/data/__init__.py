"""Data sources: one file each; a new one is that file and a line here.

Importing this package imports none of them, nor what they read files with.
"""

import functools
import importlib
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from ist_jax.data.base import Dataset, Spec, make_dataset
from ist_jax.data.raw import DataError, Raw, reraise_as
from ist_jax.data.splits import SPLITS, shards_of
from ist_jax.data.streamed import RawStream, Streamed, make_streamed

if TYPE_CHECKING:
    from ist_jax.data.graph_dataset import GraphOptions, make_graph_dataset
    from ist_jax.data.graphs import RawGraph

_LAZY = {
    "GraphOptions": "graph_dataset",
    "make_graph_dataset": "graph_dataset",
    "RawGraph": "graphs",
}
SOURCES = {  # name -> the module here, and its function
    "digits": "digits.load",
    "idx": "idx.load",
    "npz": "npz.load",
    "tfds": "tfds.load",
    "cifar10": "cifar.load10",
    "cifar100": "cifar.load100",
    "speech_commands": "speech_commands.load",
    "digits_graph": "digits_graph.load",
    "planetoid": "planetoid.load",
    "graph_npz": "graph_npz.load",
    "ogbn_arxiv": "ogbn.load_arxiv",
    "ogbn_products": "ogbn.load_products",
    "reddit": "reddit.load",
}
STREAMS = {"tfds": "tfds.stream"}  # with `image_size`
EMBEDDED = ("digits", "digits_graph")  # sources that read no files
SETS = (  # sources with several data sets, which `dataset` names
    "digits",
    "tfds",
    "speech_commands",
    "planetoid",
    "graph_npz",
)
FILES = ("npz", "graph_npz")  # sources whose `directory` is a file
GRAPHS = (  # sources with a validation split
    "digits_graph",
    "planetoid",
    "graph_npz",
    "ogbn_arxiv",
    "ogbn_products",
    "reddit",
)


def __getattr__(name: str) -> Any:
    """Imports graphs when they are first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def _function(place: str) -> Callable[..., Any]:
    module, name = place.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def _check(name: str, directory: str, dataset: str) -> None:
    """An argument that a source does not read would only mislabel the records."""
    if name in EMBEDDED and directory:
        raise DataError(
            f"data.dir={directory!r}: data.name={name!r} is embedded and reads no files: "
            f"set data.dir to nothing"
        )
    if name not in SETS and dataset:
        raise DataError(
            f"data.dataset={dataset!r}: data.name={name!r} is one data set: "
            f"set data.dataset to nothing"
        )


def _held_out(name: str, validation_fraction: float | None) -> float:
    if validation_fraction is None:
        return 0.1
    if name in GRAPHS:
        raise DataError(
            f"data.name={name!r} has a validation split of its own: "
            f"leave validation_fraction={validation_fraction} out"
        )
    return validation_fraction


def _check_streamed(name: str, split: str, image_size: int) -> None:
    if name not in STREAMS:
        raise DataError(
            f"data.image_size={image_size} streams images of {sorted(STREAMS)}, "
            f"and not of data.name={name!r}"
        )
    if split == "dirichlet":
        raise DataError(
            "data.split='dirichlet' looks at all labels, which a streamed set has on disk: "
            "use disjoint or shared"
        )


def load(
    name: str,
    directory: str = "",
    dataset: str = "",
    *,
    split: str = "shared",
    alpha: float = 1.0,
    validation_fraction: float | None = None,
    seed: int = 0,
    graph: "GraphOptions | None" = None,
    stored: bool | None = None,
    image_size: int = 0,
) -> Dataset:
    """A data set by name.

    Args:
      name: a name of `SOURCES`.
      directory: the folder or file with the data, where the source needs one.
      dataset: which of a source's data sets, where it has several.
      split: how workers see the training data: 'shared', 'disjoint' or 'dirichlet'.
      alpha: concentration of the Dirichlet split; smaller is less IID.
      validation_fraction: share of the training examples held out for validation, by default a
        tenth. Graphs have a validation split.
      seed: of the disjoint and Dirichlet splits.
      graph: how a graph is laid out.
      stored: whether training inputs stay in their files until rows of them are read; by default,
        where several processes train workers with disjoint shards.
      image_size: 0, or the side of a model's images. The data set, of a source in `STREAMS`, is
        then streamed from disk.

    Raises:
      DataError: files are missing, empty, truncated, of the wrong shape, or have labels that do
        not fit.
      ValueError: there is no source called `name`.
    """
    if name not in SOURCES:
        raise ValueError(f"data.name is one of {sorted(SOURCES)}, not {name!r}")
    _check(name, directory, dataset)
    held_out = _held_out(name, validation_fraction)
    label = dataset or (directory.rstrip("/").rsplit("/", 1)[-1] if directory else name)
    shards = functools.partial(shards_of, split, seed, alpha)
    source = directory or name
    options: dict[str, Any] = dict(source=source, validation_fraction=held_out, shards=shards)
    if image_size:
        _check_streamed(name, split, image_size)
        stream = _function(STREAMS[name])(directory, dataset, image_size)
        return make_streamed(stream, label, **options)
    with reraise_as(source):
        raw = _function(SOURCES[name])(directory, dataset)
    if not isinstance(raw, Raw):
        cache = str(pathlib.Path(directory).parent) if name in FILES else directory
        return _graph(raw, label, source=source, graph=graph, shards=shards, cache=cache)
    if stored is None:
        stored = split != "shared" and jax.process_count() > 1
    return make_dataset(raw, label, stored=stored, **options)


def _graph(raw: "RawGraph", label: str, *, graph: "GraphOptions | None", **options: Any) -> Dataset:
    from ist_jax.data.graph_dataset import GraphOptions, make_graph_dataset

    return make_graph_dataset(raw, label, options=graph or GraphOptions(), **options)


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
