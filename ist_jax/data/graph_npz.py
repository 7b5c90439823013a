"""Your own graph: one .npz file with features, labels, edges and three splits of the nodes.

Arrays may have the names and shapes of PyG, DGL, OGB and the heterophilous benchmark (`NAMES`).
"""

import pathlib
from typing import NamedTuple

import numpy as np

from ist_jax.data.graph_layouts import as_edges, count_splits, split_mask
from ist_jax.data.graphs import RawGraph
from ist_jax.data.npz import names_in, read_npz
from ist_jax.data.raw import DataError

# what a file needs -> the names that its array may have
NAMES = {
    "features": ("node_features", "x", "feat", "node_feat", "features"),
    "labels": ("node_labels", "y", "label", "node_label", "labels"),
    "edges": ("edges", "edge_index"),
    "training split": ("train_mask", "train_masks", "train_idx", "train"),
    "validation split": (
        "val_mask",
        "val_masks",
        "valid_mask",
        "val_idx",
        "valid_idx",
        "valid",
        "val",
    ),
    "test split": ("test_mask", "test_masks", "test_idx", "test"),
}
SPLITS = ("training split", "validation split", "test split")
_PAIRS = (("src", "dst"), ("row", "col"))  # edges as two arrays [E]
_NEEDS = (
    "graph_npz needs one with node_features, node_labels, edges, train_mask, val_mask and test_mask"
)


class _Choice(NamedTuple):
    """What `data.dataset` asks for.

    Attributes:
      inductive: whether training sees only the training nodes.
      split: which of several splits, from 0; None: the first.
    """

    inductive: bool
    split: int | None


def load(directory: str, dataset: str) -> RawGraph:
    """Reads the file `directory`. Edges are (2, E) or (E, 2), in any direction.

    A mask is an array [N] of booleans, or of zeros and ones. Several splits are [N, K] or [K, N];
    the first is read unless `dataset` names another. An array such as 'train_idx' has the numbers
    of the nodes in place of a mask.

    Args:
      directory: the file.
      dataset: 'inductive' if training sees only the training nodes; the number of a split; both
        ('inductive,3'); or ''.

    Raises:
      DataError: `dataset` is none of these; the file or an array is missing, empty, damaged or
        pickled; or an array is ambiguous.
    """
    choice, path = _parse(dataset), pathlib.Path(directory)
    named = _find(path)
    wanted = [name for names in named.values() for name in names]
    arrays = read_npz(path, wanted, "graph_npz")
    features, labels = (np.asarray(arrays[named[what][0]]) for what in ("features", "labels"))
    edges = _edges([arrays[name] for name in named["edges"]], named["edges"], str(path))
    masks = {named[split][0]: np.asarray(arrays[named[split][0]]) for split in SPLITS}
    num_nodes = len(features) if features.ndim else 0
    number, notes = _chosen(masks, num_nodes, choice, str(path))
    splits = (
        split_mask(array, name, num_nodes, number, str(path)) for name, array in masks.items()
    )
    return RawGraph(features, labels, edges, *splits, inductive=choice.inductive, notes=notes)


def _parse(dataset: str) -> _Choice:
    words = dataset.replace(",", " ").split()
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    others = [word for word in words if not (word.isascii() and word.isdigit())]
    if len(numbers) > 1 or others not in ([], ["inductive"]):
        raise DataError(
            "data.dataset of graph_npz is empty, 'inductive', the number of a split, or both "
            f"('inductive,3'), not {dataset!r}"
        )
    return _Choice(bool(others), numbers[0] if numbers else None)


def _find(path: pathlib.Path) -> dict[str, tuple[str, ...]]:
    """Key of `NAMES` -> names of its arrays in the file, two for some edges.

    If the first of its names is in the file, the others are ignored.

    Raises:
      DataError: an array is missing, or several arrays could be the one.
    """
    present = names_in(path, _NEEDS)
    found = {}
    for what, names in NAMES.items():
        having = [(name,) for name in names if name in present]
        if what == "edges":
            having += [pair for pair in _PAIRS if set(pair) <= set(present)]
        if len(having) > 1 and (names[0],) not in having:
            shown = " and ".join(" with ".join(names) for names in having)
            raise DataError(f"{path}: {shown} may both be its {what}: leave one of them out")
        if not having:
            raise DataError(
                f"{path}: it has no {what} ({', '.join(names)}); it holds "
                f"{', '.join(present) or 'nothing'}: save them under one of these names"
            )
        found[what] = having[0]
    return found


def _edges(arrays: list[np.ndarray], names: tuple[str, ...], source: str) -> np.ndarray:
    if len(arrays) == 1:
        return as_edges(np.asarray(arrays[0]), names[0], source)
    senders, receivers = (np.asarray(array).reshape(-1) for array in arrays)
    if senders.shape != receivers.shape:
        raise DataError(
            f"{source}: {names[0]} and {names[1]} have one entry per edge; they have "
            f"{len(senders)} and {len(receivers)}: save both ends of every edge"
        )
    return np.stack([senders, receivers])


def _chosen(
    masks: dict[str, np.ndarray], num_nodes: int, choice: _Choice, source: str
) -> tuple[int, dict[str, str]]:
    """(number of the split, notes for records). Raises DataError if there is no such split."""
    counts = {name: count_splits(mask, num_nodes) for name, mask in masks.items()}
    count = max(counts.values())
    if not set(counts.values()) <= {1, count}:  # a single mask belongs to every split
        shown = ", ".join(f"{name} {number}" for name, number in counts.items())
        raise DataError(
            f"{source}: masks have equally many splits, or one for all; these have {shown}: save "
            "the same splits in all three"
        )
    number = choice.split or 0
    if number >= count:
        last = f"0 to {count - 1}" if count > 1 else "only 0"
        raise DataError(f"{source}: data.dataset names split {number}, and it has {last}")
    return number, {"split": f"{number} of {count}"} if count > 1 else {}
