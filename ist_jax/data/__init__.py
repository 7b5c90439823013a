"""Data sources, one file each. A new source is its file and its line in `SOURCES`.

Importing this package imports no source, and none of the libraries that sources read files with.
"""

import functools
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax

from ist_jax.data.arrays import from_arrays
from ist_jax.data.base import Dataset
from ist_jax.data.make import make_dataset
from ist_jax.data.raw import DataError, Raw, reraise_as
from ist_jax.data.spec import Spec
from ist_jax.data.splits import SPLITS, check_split, shards_of
from ist_jax.data.standardise import STANDARDISE
from ist_jax.data.streamed import RawStream, Streamed, columns_of, make_streamed

if TYPE_CHECKING:
    from ist_jax.data.graph_dataset import GraphOptions, make_graph_dataset
    from ist_jax.data.graphs import RawGraph
    from ist_jax.data.token_dataset import make_token_dataset
    from ist_jax.data.tokens import RawTokens, TokenOptions

_LAZY = {
    "GraphOptions": "graph_dataset",
    "make_graph_dataset": "graph_dataset",
    "RawGraph": "graphs",
    "RawTokens": "tokens",
    "TokenOptions": "tokens",
    "make_token_dataset": "token_dataset",
}


class Source(NamedTuple):
    """A source of data: where its reader is, and which arguments of `load` it takes.

    Attributes:
      load: "module.function" in this package: (directory, dataset) -> Raw or RawGraph. For tokens:
        (directory, dataset, options) -> RawTokens.
      reads: what `directory` is: a folder, a file, or nothing if the data ship with a library.
      has_datasets: whether `dataset` chooses among several data sets.
      is_graph: whether it is a graph, which has a validation split.
      is_tokens: whether it is a stream of tokens; `load` then takes `TokenOptions` as well.
      stream: "module.function": (directory, dataset, image_size) -> RawStream; "" if the source
        cannot be streamed.
    """

    load: str
    reads: Literal["folder", "file", "nothing"] = "folder"
    has_datasets: bool = False
    is_graph: bool = False
    is_tokens: bool = False
    stream: str = ""


SOURCES = {
    "digits": Source("digits.load", reads="nothing", has_datasets=True),
    "idx": Source("idx.load"),
    "npz": Source("npz.load", reads="file"),
    "tfds": Source("tfds.load", has_datasets=True, stream="tfds.stream"),
    "cifar10": Source("cifar.load10"),
    "cifar100": Source("cifar.load100"),
    "speech_commands": Source("speech_commands.load", has_datasets=True),
    "text": Source("text.load", reads="file", is_tokens=True),
    "tokens": Source("tokens.load", reads="file", has_datasets=True, is_tokens=True),
    "digits_graph": Source("digits_graph.load", reads="nothing", is_graph=True),
    "planetoid": Source("planetoid.load", has_datasets=True, is_graph=True),
    "graph_npz": Source("graph_npz.load", reads="file", has_datasets=True, is_graph=True),
    "ogbn_arxiv": Source("ogbn.load_arxiv", is_graph=True),
    "ogbn_products": Source("ogbn.load_products", is_graph=True),
    "reddit": Source("reddit.load", is_graph=True),
}


def __getattr__(name: str) -> Any:
    """Imports the modules of graphs and tokens on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def _imported(reader: str) -> Callable[..., Any]:
    """The function that "module.function" names, its module imported."""
    module, name = reader.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def _check(name: str, directory: str, dataset: str) -> None:
    """Refuses arguments that the source does not read: they would only mislabel the records."""
    source = SOURCES[name]
    if source.reads == "nothing" and directory:
        raise DataError(
            f"data.dir={directory!r}: data.name={name!r} is embedded and reads no files: "
            f"set data.dir to nothing"
        )
    if not source.has_datasets and dataset:
        raise DataError(
            f"data.dataset={dataset!r}: data.name={name!r} is one data set: "
            f"set data.dataset to nothing"
        )


def _fraction(name: str, validation_fraction: float | None) -> float:
    """The share to hold out for validation; by default a tenth."""
    if validation_fraction is None:
        return 0.1
    if SOURCES[name].is_graph:
        raise DataError(
            f"data.name={name!r} has its own validation split: "
            f"leave validation_fraction={validation_fraction} out"
        )
    return validation_fraction


def _check_standardise(name: str, standardise: str) -> None:
    source = SOURCES[name]
    if (source.is_graph or source.is_tokens) and standardise != "whole":
        what = "a graph, whose features" if source.is_graph else "a stream of tokens, which"
        raise DataError(
            f"data.standardise={standardise!r} is for independent examples, and "
            f"data.name={name!r} is {what} stay as they are: use whole"
        )


def _check_task(name: str, task: str, image_size: int) -> None:
    is_graph, is_tokens = SOURCES[name].is_graph, SOURCES[name].is_tokens
    only = "node_classification" if is_graph else "next_token" if is_tokens else "classification"
    if (is_graph or is_tokens or image_size) and task not in ("auto", only):
        raise DataError(f"data.task={task!r}: data.name={name!r} is {only}: use auto")


def _check_streamed(name: str, split: str, image_size: int) -> None:
    if not SOURCES[name].stream:
        streamed = sorted(name for name, source in SOURCES.items() if source.stream)
        raise DataError(
            f"data.image_size={image_size} streams images of {streamed}, "
            f"and not of data.name={name!r}"
        )
    if split == "dirichlet":
        raise DataError(
            "data.split='dirichlet' needs all labels in memory, and a streamed set has them on "
            "disk: use disjoint or shared"
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
    standardise: str = "whole",
    task: str = "auto",
    tokens: "TokenOptions | None" = None,
) -> Dataset:
    """Loads a data set by the name of its source.

    Args:
      name: a key of `SOURCES`.
      directory: the folder or file with the data, where the source reads one. A leading ~ is the
        home folder.
      dataset: which data set, where the source has several.
      split: which training examples workers draw from: 'shared' (all of them), 'disjoint' (a random
        shard each) or 'dirichlet' (a non-IID shard each).
      alpha: concentration of the Dirichlet split; smaller is less IID.
      validation_fraction: share of the training examples held out for validation, by default a
        tenth. Graphs come with a validation split.
      seed: of the disjoint and Dirichlet splits.
      graph: how a graph is laid out.
      stored: whether training inputs stay in their files until rows of them are read; by default,
        only if several processes train workers with disjoint shards.
      image_size: side of the model's images in pixels; the data set is then streamed from disk. 0
        reads it into memory.
      standardise: how a task normalises inputs: by one mean and deviation for all entries
        ('whole'), by one for every entry of an input ('per_feature'), or not at all ('none'). With
        'none', integers stay integers (int32), as models of tokens and categories need; uint8,
        which stands for images, still becomes float32. Graphs and tokens accept only 'whole', and
        stay as they are.
      tokens: how a text is read, and the length of windows.
      task: what targets are: 'classification' (integers), 'regression' (numbers [N] or [N, K]) or
        'multi_label' (a table [N, labels] of 0 and 1); 'auto' decides by dtype and shape. Graphs
        and streamed images have classes.

    Raises:
      DataError: files are missing, empty, truncated, of the wrong shape, or have invalid labels; or
        the source does not take one of the arguments.
      ValueError: there is no source called `name`, or `standardise` is unknown.
    """
    if name not in SOURCES:
        raise ValueError(f"data.name is one of {sorted(SOURCES)}, not {name!r}")
    directory = os.path.expanduser(directory)
    _check(name, directory, dataset)
    _check_standardise(name, standardise)
    _check_task(name, task, image_size)
    source, place = SOURCES[name], directory or name
    place_name = directory.rstrip("/").rsplit("/", 1)[-1] if directory else name
    label = place_name if source.reads == "file" else dataset or place_name
    shards = functools.partial(shards_of, split, seed, alpha)
    fraction = _fraction(name, validation_fraction)
    options: dict[str, Any] = dict(
        source=place, validation_fraction=fraction, shards=shards, standardise=standardise
    )
    if image_size:
        _check_streamed(name, split, image_size)
        stream = _imported(source.stream)(directory, dataset, image_size)
        return make_streamed(stream, label, **options)
    if source.is_tokens:
        check_split(split, "next_token")
        return _tokens(source, directory, dataset, label, options, tokens)
    with reraise_as(place):
        raw = _imported(source.load)(directory, dataset)
    if not isinstance(raw, Raw):
        cache = str(pathlib.Path(directory).parent) if source.reads == "file" else directory
        return _graph(raw, label, source=place, graph=graph, shards=shards, cache=cache)
    if stored is None:
        stored = split != "shared" and jax.process_count() > 1
    made = make_dataset(raw, label, stored=stored, task=task, **options)
    check_split(split, made.task)
    return made


def _tokens(
    source: Source,
    directory: str,
    dataset: str,
    label: str,
    options: dict[str, Any],
    tokens: "TokenOptions | None",
) -> Dataset:
    from ist_jax.data.token_dataset import make_token_dataset
    from ist_jax.data.tokens import TokenOptions

    tokens = tokens or TokenOptions()
    names = ("source", "validation_fraction", "shards")
    with reraise_as(options["source"]):
        raw = _imported(source.load)(directory, dataset, tokens)
    return make_token_dataset(raw, label, options=tokens, **{name: options[name] for name in names})


def _graph(raw: "RawGraph", label: str, *, graph: "GraphOptions | None", **options: Any) -> Dataset:
    from ist_jax.data.graph_dataset import GraphOptions, make_graph_dataset

    return make_graph_dataset(raw, label, options=graph or GraphOptions(), **options)


__all__ = [
    "SOURCES",
    "SPLITS",
    "STANDARDISE",
    "DataError",
    "Dataset",
    "GraphOptions",
    "Raw",
    "RawGraph",
    "RawStream",
    "RawTokens",
    "Source",
    "Spec",
    "Streamed",
    "TokenOptions",
    "columns_of",
    "from_arrays",
    "load",
    "make_dataset",
    "make_graph_dataset",
    "make_streamed",
    "make_token_dataset",
]
