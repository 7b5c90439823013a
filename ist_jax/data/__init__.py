"""Data sources: one file each; a new one is that file and a line here."""

import functools

from ist_jax.data import cifar, digits, idx, npz, speech_commands, tfds
from ist_jax.data.base import DataError, Dataset, Raw, Spec, make_dataset
from ist_jax.data.splits import SPLITS, shards_of

SOURCES = {
    "digits": digits.load,
    "idx": idx.load,
    "npz": npz.load,
    "tfds": tfds.load,
    "cifar10": cifar.load10,
    "cifar100": cifar.load100,
    "speech_commands": speech_commands.load,
}
EMBEDDED = ("digits",)  # sources that need no folder


def load(
    name: str,
    directory: str = "",
    dataset: str = "",
    *,
    split: str = "shared",
    alpha: float = 1.0,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """A data set by name.

    Args:
      name: a name of `SOURCES`.
      directory: the folder or file it lies in, where it needs one.
      dataset: which of a source's data sets, where it has several.
      split: how workers see the training data: 'shared', 'disjoint' or 'dirichlet'.
      alpha: concentration of the Dirichlet split; smaller is less IID.
      validation_fraction: share of the training examples held out for validation.
      seed: of the disjoint and Dirichlet splits.

    Raises:
      DataError: files missing, empty, truncated, of the wrong shape, or with labels that do not fit.
    """
    if name not in SOURCES:
        raise ValueError(f"data.name is one of {sorted(SOURCES)}, not {name!r}")
    label = dataset or (directory.rstrip("/").rsplit("/", 1)[-1] if directory else name)
    shards = functools.partial(shards_of, split, seed, alpha)
    source = directory or name
    raw = SOURCES[name](directory, dataset)
    return make_dataset(raw, label, source=source, validation_fraction=validation_fraction, shards=shards)


__all__ = ["EMBEDDED", "SOURCES", "SPLITS", "DataError", "Dataset", "Raw", "Spec", "load", "make_dataset"]
