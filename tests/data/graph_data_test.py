"""Graphs from files: real ones, small ones made here, and broken ones."""

import gzip
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from cases import graph_dataset, raw_graph

from ist_jax import data
from ist_jax.data import DataError, planetoid


@pytest.mark.parametrize(
    "name,nodes,features,classes,edges,isolated",
    [("cora", 2708, 1433, 7, 10556, 0), ("citeseer", 3327, 3703, 6, 9104, 48)],
)
def test_planetoid_reads_the_published_graphs(
    name, nodes, features, classes, edges, isolated, real_data
):
    loaded = data.load("planetoid", str(real_data / "planetoid"), name)
    assert (
        loaded.notes["nodes"] == nodes
        and loaded.notes["edges"] == edges
        and loaded.notes["isolated_nodes"] == isolated
    )
    assert (
        loaded.spec.example_shape == (features,)
        and loaded.num_classes == classes
        and loaded.num_train == 1
    )
    counts = [
        int(loaded.arrays(part)["counted_N"].sum()) for part in ("train", "validation", "test")
    ]
    assert counts == [20 * classes, 500, 1000]
    assert loaded.notes["rows_of_zeros"] == {"cora": 0, "citeseer": 15}[name]
    assert not loaded.warnings
    rows = loaded.arrays("test")["graph"].features.sum(axis=1)
    assert ((abs(rows - 1) < 1e-4) | (rows == 0)).all(), (
        "rows of features are divided by their sums"
    )


def write_planetoid(folder, **changes):
    """8 nodes, of which the last two are test nodes; the real sets have more validation nodes."""
    one_hot = np.eye(2, dtype=np.int32)
    parts = {
        "x": sp.csr_matrix(np.eye(2, 3, dtype=np.float32)),
        "tx": sp.csr_matrix(np.ones((2, 3), np.float32)),
        "allx": sp.csr_matrix(np.ones((6, 3), np.float32)),
        "y": one_hot,
        "ty": one_hot,
        "ally": one_hot[[0, 1, 0, 1, 0, 1]],
        "graph": {0: [1, 7], 1: [0], 7: [0, 0], 3: [3]},
    } | changes
    for name, part in parts.items():
        (folder / f"ind.cora.{name}").write_bytes(
            part if isinstance(part, bytes) else pickle.dumps(part)
        )
    (folder / "ind.cora.test.index").write_text("7\n6\n")


def test_planetoid_reads_small_files_of_its_format(tmp_path, monkeypatch):
    monkeypatch.setattr(planetoid, "VALIDATION", 2)
    write_planetoid(tmp_path)
    loaded = data.load("planetoid", str(tmp_path), "cora")
    assert (
        loaded.notes["edges"] == 4
        and loaded.notes["self_edges_removed"] == 1
        and loaded.notes["isolated_nodes"] == 5
    )
    assert loaded.arrays("train")["label_N"].tolist() == [0, 1, 0, 1, 0, 1, 1, 0], (
        "test rows are where test.index says"
    )


def pointing_outside():
    """A pickle of a sparse matrix whose rows end far outside its entries."""
    matrix = sp.csr_matrix(np.ones((6, 3), np.float32))
    matrix.indptr[-1] = 900_000_000
    return pickle.dumps(matrix)


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    "changes,says",
    [
        (
            {"graph": pickle.dumps(Evil())},
            "ind.cora.graph: cannot be read .it names builtins.print, which a Planetoid file",
        ),
        ({"x": pickle.dumps(np.eye(2))[:-20]}, "ind.cora.x: cannot be read"),
        ({"x": b""}, "ind.cora.x: cannot be read"),
        ({"allx": pointing_outside()}, "ind.cora.allx: cannot be read"),
        ({"graph": pickle.dumps([1, 2])}, "the graph is a dictionary of neighbours, not list"),
        ({"graph": {0: [10**30]}}, "files of cora do not fit together"),
        ({"graph": {0: [0.5]}}, "the graph's neighbours are integers"),
        (
            {"allx": sp.csr_matrix((6, 10**9), dtype=np.float32)},
            "1000000000 features are more than the 65536",
        ),
        ({"graph": {0: [99]}}, "edges join nodes 0 to 7, and one names node 99"),
        ({"allx": sp.csr_matrix(np.ones((6, 4), np.float32))}, "files of cora do not fit together"),
        (
            {"tx": sp.csr_matrix(np.ones((3, 3), np.float32))},
            "do not fit together .2 test nodes from 6 on, 3 rows of tx, 6 of allx",
        ),
    ],
)
def test_a_broken_planetoid_file_raises_an_error_and_runs_no_code(
    changes, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(planetoid, "VALIDATION", 2)
    write_planetoid(tmp_path, **changes)
    with pytest.raises(DataError, match=says):
        data.load("planetoid", str(tmp_path), "cora")
    assert capsys.readouterr().out == ""


def test_a_planetoid_test_node_far_outside_raises_an_error(tmp_path):
    write_planetoid(tmp_path)
    (tmp_path / "ind.cora.test.index").write_text("7\n10000000000\n")
    with pytest.raises(
        DataError, match="a test node 10000000000 is far beyond the 6 rows of allx and 2 test nodes"
    ):
        data.load("planetoid", str(tmp_path), "cora")


def test_a_missing_planetoid_file_raises_an_error(tmp_path):
    with pytest.raises(DataError, match=r"ind.cora.x is missing; planetoid needs"):
        data.load("planetoid", str(tmp_path), "cora")
    with pytest.raises(DataError, match="one of cora, citeseer, pubmed, not 'corra'"):
        data.load("planetoid", str(tmp_path), "corra")


def test_a_validation_fraction_of_a_graph_raises_an_error():
    with pytest.raises(
        DataError,
        match="'digits_graph' has its own validation split: leave validation_fraction=0.2 out",
    ):
        data.load("digits_graph", validation_fraction=0.2)


def npz_graph(**changes):
    raw = raw_graph()
    arrays = dict(node_features=raw.features_NxD, node_labels=raw.labels_N, edges=raw.edges_2xE.T)
    return (
        arrays
        | dict(train_mask=raw.train_N, val_mask=raw.validation_N, test_mask=raw.test_N)
        | changes
    )


def test_graph_npz_reads_a_users_graph(tmp_path):
    np.savez(tmp_path / "mine.npz", **npz_graph())
    loaded = data.load("graph_npz", str(tmp_path / "mine.npz"))
    assert loaded.fingerprint == data.load("graph_npz", str(tmp_path / "mine.npz")).fingerprint
    assert loaded.notes["nodes"] == 40 and loaded.notes["edges"] == graph_dataset().notes["edges"]
    assert (
        len(
            data.load("graph_npz", str(tmp_path / "mine.npz"), "inductive").arrays("train")[
                "label_N"
            ]
        )
        == 20
    )
    cut = data.load("graph_npz", str(tmp_path / "mine.npz"), graph=data.GraphOptions(clusters=4))
    assert len(list(tmp_path.glob("clusters_*.npy"))) == 1 and cut.notes["parts"] == 4, (
        "kept beside the file"
    )
    with pytest.raises(DataError, match="the number of a split, .* not 'deductive'"):
        data.load("graph_npz", str(tmp_path / "mine.npz"), "deductive")
    np.savez(
        tmp_path / "less.npz",
        **{name: value for name, value in npz_graph().items() if name != "edges"},
    )
    with pytest.raises(
        DataError, match="it has no edges .edges, edge_index.; it holds node_features"
    ):
        data.load("graph_npz", str(tmp_path / "less.npz"))
    np.savez(tmp_path / "pickled.npz", **npz_graph(edges=np.array([Evil()])))
    with pytest.raises(DataError, match="hold pickled objects"):
        data.load("graph_npz", str(tmp_path / "pickled.npz"))


def test_digits_graph_is_embedded():
    loaded = data.load("digits_graph")
    assert (
        loaded.notes["nodes"] == 1797
        and loaded.num_classes == 10
        and loaded.arrays("train")["counted_N"].sum() == 200
    )


def test_reddit_reads_a_small_file_of_its_format(tmp_path):
    raw = raw_graph()
    types = np.select([raw.train_N, raw.validation_N], [1, 2], 3)
    np.savez(
        tmp_path / "reddit_data.npz",
        feature=raw.features_NxD,
        label=raw.labels_N,
        node_types=types,
        node_ids=types,
    )
    np.savez(
        tmp_path / "reddit_graph.npz",
        row=raw.edges_2xE[0],
        col=raw.edges_2xE[1],
        data=raw.edges_2xE[0],
    )
    loaded = data.load("reddit", str(tmp_path))
    x = loaded.arrays("train")["graph"].features
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-4)
    assert len(x) == 20 and loaded.notes["nodes"] == 40
    np.savez(
        tmp_path / "reddit_data.npz",
        feature=raw.features_NxD,
        label=raw.labels_N,
        node_types=types[:-1],
    )
    with pytest.raises(DataError, match="every node has a type and a row of features"):
        data.load("reddit", str(tmp_path))
    with pytest.raises(
        DataError, match="reddit_data.npz.*is not a file; reddit needs one with feature"
    ):
        data.load("reddit", str(tmp_path / "elsewhere"))


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def test_ogbn_reads_a_small_folder_of_its_format(tmp_path):
    raw = raw_graph()
    write_csv(tmp_path / "raw" / "node-feat.csv.gz", raw.features_NxD)
    write_csv(tmp_path / "raw" / "node-label.csv.gz", raw.labels_N[:, None])
    write_csv(tmp_path / "raw" / "edge.csv.gz", raw.edges_2xE.T)
    for kind in ("time", "sales_ranking"):
        for part, mask in (
            ("train", raw.train_N),
            ("valid", raw.validation_N),
            ("test", raw.test_N),
        ):
            write_csv(tmp_path / "split" / kind / f"{part}.csv.gz", np.flatnonzero(mask)[:, None])
    arxiv, products = (
        data.load("ogbn_arxiv", str(tmp_path)),
        data.load("ogbn_products", str(tmp_path)),
    )
    assert (
        arxiv.notes["edges"] == graph_dataset().notes["edges"]
        and len(arxiv.arrays("train")["label_N"]) == 40
    )
    assert len(products.arrays("train")["label_N"]) == 20, "training sees the training nodes alone"
    assert (arxiv.num_classes, products.num_classes) == (40, 47), (
        "of the data set, whatever training nodes have"
    )
    write_csv(tmp_path / "split" / "time" / "valid.csv.gz", [[40]])
    with pytest.raises(DataError, match="the valid split names at least one node, from 0 to 39"):
        data.load("ogbn_arxiv", str(tmp_path))
    (tmp_path / "raw" / "edge.csv.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(DataError, match="edge.csv.gz: cannot be read as comma-separated numbers"):
        data.load("ogbn_arxiv", str(tmp_path))
    (tmp_path / "raw" / "edge.csv.gz").unlink()
    with pytest.raises(
        DataError, match="edge.csv.gz is missing; data.dir is a folder with raw/ and split/"
    ):
        data.load("ogbn_arxiv", str(tmp_path))
