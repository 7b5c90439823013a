"""Graphs in the arrays of PyG, DGL, OGB and the heterophilous benchmark, in one .npz file."""

import numpy as np
import pytest
from cases import raw_graph

from ist_jax import data
from ist_jax.data import DataError, make_graph_dataset
from ist_jax.data.graph_dataset import GraphOptions
from ist_jax.data.splits import shared

RAW = raw_graph()
MASKS = (RAW.train_N, RAW.validation_N, RAW.test_N)
N = len(RAW.labels_N)
PLAIN = ("train_mask", "val_mask", "test_mask")


def named(names, arrays=MASKS, change=lambda array: array):
    return dict(zip(names, map(change, arrays)))


def several(mask):
    """Two splits; the second one is that of the graph, the first one is another."""
    return np.stack([np.roll(mask, 2), mask])


OURS = dict(node_features=RAW.features_NxD, node_labels=RAW.labels_N, edges=RAW.edges_2xE.T)
PYG = dict(x=RAW.features_NxD, y=RAW.labels_N, edge_index=RAW.edges_2xE)
OGB = dict(node_feat=RAW.features_NxD, node_label=RAW.labels_N[:, None], edge_index=RAW.edges_2xE)
DGL = dict(feat=RAW.features_NxD, label=RAW.labels_N, src=RAW.edges_2xE[0], dst=RAW.edges_2xE[1])
SEVERAL = ("train_masks", "val_masks", "test_masks")
LAYOUTS = {
    "ours": ("", OURS | named(PLAIN)),
    "ours, edges [2, E]": ("", OURS | dict(edges=RAW.edges_2xE) | named(PLAIN)),
    "masks of bytes": ("", OURS | named(PLAIN, change=lambda mask: mask.astype(np.uint8))),
    "masks of floats [N, 1]": ("", OURS | named(PLAIN, change=lambda m: m[:, None].astype(float))),
    "labels [N, 1]": ("", OURS | dict(node_labels=RAW.labels_N[:, None]) | named(PLAIN)),
    "labels of floats": ("", OURS | dict(node_labels=RAW.labels_N.astype(float)) | named(PLAIN)),
    "PyG": ("", PYG | named(PLAIN)),
    "PyG, splits [N, K]": ("1", PYG | named(PLAIN, change=lambda mask: several(mask).T)),
    "PyG, one test mask": (
        "1",
        PYG | named(PLAIN, change=lambda mask: several(mask).T) | dict(test_mask=RAW.test_N),
    ),
    "DGL": ("", DGL | named(PLAIN)),
    "OGB": ("", OGB | named(("train_idx", "valid_idx", "test_idx"), change=np.flatnonzero)),
    "OGB, plain names": ("", OGB | named(("train", "valid", "test"), change=np.flatnonzero)),
    "heterophilous": ("1", OURS | named(SEVERAL, change=several)),
}


def load(folder, dataset="", **arrays):
    np.savez(folder / "graph.npz", **arrays)
    return data.load("graph_npz", str(folder / "graph.npz"), dataset)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_graph(layout, tmp_path):
    dataset, arrays = LAYOUTS[layout]
    expected = load(tmp_path, **LAYOUTS["ours"][1])
    loaded = load(tmp_path, dataset, **arrays)
    assert loaded.fingerprint == expected.fingerprint
    assert loaded.notes.get("split") == ("1 of 2" if dataset else None)


def test_the_first_of_several_splits_is_read_unless_another_is_named(tmp_path):
    _, arrays = LAYOUTS["heterophilous"]
    first, other = load(tmp_path, **arrays), load(tmp_path, "1", **arrays)
    assert first.notes["split"] == "0 of 2" and first.fingerprint != other.fingerprint
    inside = load(tmp_path, "inductive,1", **arrays)
    assert len(inside.arrays("train")["label_N"]) == RAW.train_N.sum()
    assert inside.notes["split"] == "1 of 2"


def test_a_node_without_a_label_may_be_in_no_split(tmp_path):
    free = np.flatnonzero(RAW.test_N)[0]
    label_N = RAW.labels_N.astype(float)
    label_N[free] = np.nan
    arrays = OURS | dict(node_labels=label_N) | named(PLAIN)
    with pytest.raises(DataError, match="the smallest is -1 .nan counts as -1."):
        load(tmp_path, **arrays)
    load(tmp_path, **arrays | dict(test_mask=RAW.test_N & (np.arange(N) != free)))


def test_a_graph_made_in_python_may_have_masks_of_bytes_and_labels_with_an_axis():
    raw = RAW._replace(labels_N=RAW.labels_N[:, None], train_N=RAW.train_N.astype(np.uint8))
    options = dict(source="here", options=GraphOptions(), shards=shared)
    made, plain = (make_graph_dataset(one, "x", **options) for one in (raw, RAW))
    assert made.fingerprint == plain.fingerprint


REFUSED = {
    "two names": (
        PYG | named(PLAIN) | dict(feat=RAW.features_NxD),
        "x and feat may both be its features",
    ),
    "two kinds of edges": (
        {name: array for name, array in OURS.items() if name != "edges"}
        | named(PLAIN)
        | dict(edge_index=RAW.edges_2xE, src=RAW.edges_2xE[0], dst=RAW.edges_2xE[1]),
        "edge_index and src with dst may both be its edges",
    ),
    "no split": (OURS | named(PLAIN[:2]), "it has no test split .test_mask, .*; it holds node_fea"),
    "a split that is not there": (PYG | named(PLAIN), "names split 3, and it has only 0"),
    "splits of other numbers": (
        PYG
        | dict(train_mask=np.ones((N, 3), bool), val_mask=np.ones((N, 2), bool))
        | dict(test_mask=RAW.test_N),
        "equally many splits, or one for all; these have train_mask 3, val_mask 2, test_mask 1",
    ),
    "a mask of nodes": (
        PYG | named(PLAIN, change=np.flatnonzero),
        "train_mask has a 0 or 1 for each of 40 nodes; .*: save numbers of nodes as train_idx",
    ),
    "a mask per node": (
        PYG | named(PLAIN, change=lambda mask: np.outer(mask, mask)),
        "may have a split in each row or column: save one split",
    ),
    "nodes that are not there": (
        OGB | named(("train", "valid", "test"), change=lambda mask: np.flatnonzero(mask) + N),
        "train has nodes from 0 to 39, and one is ",
    ),
    "nodes that are floats": (
        OGB | named(("train", "valid", "test"), change=lambda mask: np.flatnonzero(mask) / 2),
        "train has the numbers of a split's nodes; it is float64",
    ),
    "two edges either way": (
        OURS | dict(edges=np.array([[0, 1], [2, 3]])) | named(PLAIN),
        "edges of shape .2, 2. may be read by rows or by columns: save it as edge_index",
    ),
    "ends of edges": (
        DGL | dict(dst=np.arange(3)) | named(PLAIN),
        "src and dst have one entry per",
    ),
    "several labels": (
        OURS | dict(node_labels=np.ones((N, 3), int)) | named(PLAIN),
        "one integer label per node; .*: several labels per node are not supported",
    ),
    "targets": (
        OURS | dict(node_labels=np.linspace(0, 1, N)) | named(PLAIN),
        "one integer label per node; .*: regression on nodes is not supported",
    ),
    "one-hot labels": (
        OURS | dict(node_labels=np.eye(5)[RAW.labels_N]) | named(PLAIN),
        "one integer label per node; .*: use y.argmax.axis=1.",
    ),
}


def test_names_of_ours_win(tmp_path):
    others = dict(x=np.zeros((N, 2)), y=np.zeros(N, int), features=np.zeros(3), row=np.zeros(2))
    given = OURS | named(PLAIN)
    assert load(tmp_path, **given, **others).fingerprint == load(tmp_path, **given).fingerprint


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_one_meaning_is_refused_with_a_remedy(case, tmp_path):
    arrays, says = REFUSED[case]
    with pytest.raises(DataError, match=says) as error:
        load(tmp_path, "3" if case == "a split that is not there" else "", **arrays)
    assert "\n" not in str(error.value)
