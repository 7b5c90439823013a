"""Graphs from files: real ones, small ones made here, and broken ones."""

import gzip
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from cases import graph_dataset, raw_graph

from ist_jax import data
from ist_jax.data import DataError, planetoid
from ist_jax.data.clusters import by_bandwidth, clusters_of, has_metis
from ist_jax.data.graphs import adjacency


@pytest.mark.parametrize(
    "name,nodes,features,classes,edges,isolated", [("cora", 2708, 1433, 7, 10556, 0), ("citeseer", 3327, 3703, 6, 9104, 48)]
)
def test_planetoid(name, nodes, features, classes, edges, isolated, real_data):
    found = data.load("planetoid", str(real_data / "planetoid"), name)
    assert found.notes["nodes"] == nodes and found.notes["edges"] == edges and found.notes["isolated_nodes"] == isolated
    assert found.spec.example_shape == (features,) and found.num_classes == classes and found.num_train == 1
    counts = [int(found.arrays(part)["counted_N"].sum()) for part in ("train", "validation", "test")]
    assert counts == [20 * classes, 500, 1000]
    assert found.notes["rows_of_zeros"] == {"cora": 0, "citeseer": 15}[name]
    rows = found.arrays("test")["graph"].features.sum(axis=1)
    assert ((abs(rows - 1) < 1e-4) | (rows == 0)).all(), "rows of features are divided by their sums"


def write_planetoid(folder, **changes):
    """8 nodes, of which the last two are test nodes; far fewer validation nodes than the real sets have."""
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
        (folder / f"ind.cora.{name}").write_bytes(part if isinstance(part, bytes) else pickle.dumps(part))
    (folder / "ind.cora.test.index").write_text("7\n6\n")


def test_planetoid_of_hand_made_files(tmp_path, monkeypatch):
    monkeypatch.setattr(planetoid, "VALIDATION", 2)
    write_planetoid(tmp_path)
    found = data.load("planetoid", str(tmp_path), "cora")
    assert found.notes["edges"] == 4 and found.notes["self_edges_removed"] == 1 and found.notes["isolated_nodes"] == 5
    assert found.arrays("train")["label_N"].tolist() == [0, 1, 0, 1, 0, 1, 1, 0], "test rows lie where test.index says"


def pointing_outside():
    """A pickle of a sparse matrix whose rows end far outside of its entries."""
    matrix = sp.csr_matrix(np.ones((6, 3), np.float32))
    matrix.indptr[-1] = 900_000_000
    return pickle.dumps(matrix)


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"graph": pickle.dumps(Evil())}, "ind.cora.graph: cannot be read .it names builtins.print, which a Planetoid file"),
        ({"x": pickle.dumps(np.eye(2))[:-20]}, "ind.cora.x: cannot be read"),
        ({"x": b""}, "ind.cora.x: cannot be read"),
        ({"allx": pointing_outside()}, "ind.cora.allx: cannot be read"),
        ({"graph": pickle.dumps([1, 2])}, "the graph is a dictionary of neighbours, not list"),
        ({"graph": {0: [10**30]}}, "files of cora do not fit together"),
        ({"graph": {0: [0.5]}}, "the graph's neighbours are integers"),
        ({"allx": sp.csr_matrix((6, 10**9), dtype=np.float32)}, "1000000000 features are more than the 65536"),
        ({"graph": {0: [99]}}, "edges join nodes 0 to 7, and one names node 99"),
        ({"allx": sp.csr_matrix(np.ones((6, 4), np.float32))}, "files of cora do not fit together"),
        (
            {"tx": sp.csr_matrix(np.ones((3, 3), np.float32))},
            "do not fit together .2 test nodes from 6 on, 3 rows of tx, 6 of allx",
        ),
    ],
)
def test_broken_planetoid_files_are_said_and_no_code_is_run(changes, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planetoid, "VALIDATION", 2)
    write_planetoid(tmp_path, **changes)
    with pytest.raises(DataError, match=says):
        data.load("planetoid", str(tmp_path), "cora")
    assert capsys.readouterr().out == ""


def test_a_test_node_far_outside_is_said(tmp_path):
    write_planetoid(tmp_path)
    (tmp_path / "ind.cora.test.index").write_text("7\n10000000000\n")
    with pytest.raises(DataError, match="a test node 10000000000 is far beyond the 6 rows of allx and 2 test nodes"):
        data.load("planetoid", str(tmp_path), "cora")


def test_missing_planetoid_files_are_said(tmp_path):
    with pytest.raises(DataError, match=r"ind.cora.x is missing; planetoid needs"):
        data.load("planetoid", str(tmp_path), "cora")
    with pytest.raises(DataError, match="one of cora, citeseer, pubmed, not 'corra'"):
        data.load("planetoid", str(tmp_path), "corra")


def test_a_graph_has_a_validation_split_of_its_own():
    with pytest.raises(DataError, match="'digits_graph' has a validation split of its own: leave validation_fraction=0.2 out"):
        data.load("digits_graph", validation_fraction=0.2)


def test_projected_features_are_dense_keep_distances_and_follow_the_seed():
    features = sp.random(40, 3000, 0.01, random_state=0).toarray().astype(np.float32)
    raw = raw_graph(features_NxD=features)
    options = dict(first_product="symmetric", sparse_below=0.1)
    found, again, other = (graph_dataset(raw, projection=1000, seed=seed, **options) for seed in (0, 0, 1))
    x, same, another = (data.arrays("test")["graph"].features for data in (found, again, other))
    assert found.spec.example_shape == (1000,) and x.dtype == np.float32 and (x != 0).mean() > 0.9, "no longer sparse"
    np.testing.assert_array_equal(x, same)
    assert np.abs(x - another).max() > 0.01 and found.fingerprint == other.fingerprint, "the same data, another projection"
    assert found.notes["projection"] == 1000 and "projection" not in graph_dataset(raw).notes
    distances = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(40, 1)]
    plain = graph_dataset(raw, projection=1000).arrays("test")["graph"].features
    ratio = distances(plain) / distances(features[np.arange(40)])
    assert ratio.min() > 0.8 and ratio.max() < 1.2, "Johnson and Lindenstrauss"
    inside = graph_dataset(raw._replace(inductive=True), projection=8).arrays("train")["graph"].features
    np.testing.assert_allclose(inside, graph_dataset(raw, projection=8).arrays("test")["graph"].features[raw.train_N])


def test_edges_are_made_symmetric_single_and_without_loops():
    raw = raw_graph(edges_2xE=np.array([[0, 1, 1, 2, 2, 5], [1, 0, 2, 1, 2, 6]]).repeat(2, axis=1))
    matrix, done = adjacency(raw)
    assert (matrix != matrix.T).nnz == 0 and matrix.nnz == 6 and matrix.diagonal().sum() == 0
    expected = {"self_edges_removed": 2, "duplicate_edges_removed": 5, "reverse_edges_added": 1, "isolated_nodes": 35}
    assert done == expected


N = 40
WRONG = {
    "edges join nodes 0 to 39, and one names node 40": dict(edges_2xE=np.array([[0], [40]])),
    "and one names node -1": dict(edges_2xE=np.array([[0], [-1]])),
    "edges are integers of shape .2, E.; they are float64": dict(edges_2xE=np.zeros((2, 3))),
    "edges are integers of shape .2, E.; they are int64.3, 3.": dict(edges_2xE=np.zeros((3, 3), int)),
    "features have a node axis": dict(features_NxD=np.zeros(N)),
    "features are finite": dict(features_NxD=np.full((N, 2), np.nan)),
    "one integer label per node": dict(labels_N=np.zeros(N + 1, int)),
    "there are no validation nodes": dict(validation_N=np.zeros(N, bool)),
    "and 10 are in several": dict(test_N=np.arange(N) % 4 == 0, validation_N=np.arange(N) % 2 == 1),
    "the train split is a bool per node": dict(train_N=np.arange(3)),
    "labels of nodes in a split count from 0": dict(labels_N=np.arange(N) - 1),
    "label 9 never occurs in training": dict(labels_N=np.where(np.arange(N) == 1, 9, 0)),
    "without large gaps; 20 nodes have a label 500": dict(labels_N=np.where(np.arange(N) == 0, 500, 0)),
}


@pytest.mark.parametrize("says", sorted(WRONG))
def test_wrong_graphs_are_said(says):
    with pytest.raises(DataError, match=says):
        graph_dataset(raw_graph()._replace(**WRONG[says]))


def test_classes_without_a_training_node_are_known_and_recorded():
    """ogbn-products has five of them."""
    raw = raw_graph()
    label_N = raw.labels_N.copy()
    label_N[np.flatnonzero(raw.test_N)[0]] = 46
    found = graph_dataset(raw._replace(labels_N=label_N, num_classes=47))
    assert found.num_classes == 47 and found.notes["classes without a training node"] == 47 - len(np.unique(raw.labels_N))
    with pytest.raises(DataError, match="labels are below 46, the number of classes, and one is 46"):
        graph_dataset(raw._replace(labels_N=label_N, num_classes=46))


@pytest.mark.parametrize("label", [-100, 99])
def test_what_nodes_without_a_label_have_instead_does_not_matter(label):
    raw = raw_graph()
    free = np.flatnonzero(raw.test_N)[:3]
    test_N = raw.test_N & ~np.isin(np.arange(len(raw.test_N)), free)
    label_N = raw.labels_N.copy()
    label_N[free] = label
    for part in ("train", "test"):
        found = graph_dataset(raw._replace(labels_N=label_N, test_N=test_N)).arrays(part)["label_N"]
        assert found.min() >= 0 and found.max() < graph_dataset(raw).num_classes


def test_a_damaged_cache_of_clusters_is_made_again(tmp_path):
    matrix, _ = adjacency(raw_graph())
    whole = clusters_of(matrix, 4, str(tmp_path), "name")
    (file,) = tmp_path.iterdir()
    for damaged in (whole - 1, whole.astype(float), whole + 10**6, np.where(whole == 1, 2, whole)):
        np.save(file, damaged)
        np.testing.assert_array_equal(clusters_of(matrix, 4, str(tmp_path), "name"), whole)


def test_clusters_of_another_graph_or_number_have_a_file_of_their_own(tmp_path):
    """Of as many nodes and edges, in one folder and of one name."""
    ring, nodes = lambda step: (np.arange(60), (np.arange(60) + step) % 60), (60, 60)
    graphs = [sp.csr_matrix((np.ones(60), ring(step)), shape=nodes) for step in (1, 7)]
    graphs = [(graph + graph.T).tocsr() for graph in graphs]
    asked = [(graph, count) for graph in graphs for count in (4, 5)]
    made = [clusters_of(graph, count, str(tmp_path), "same") for graph, count in asked]
    assert len(list(tmp_path.glob("clusters_*.npy"))) == 4
    for (graph, count), found in zip(asked, made):
        np.testing.assert_array_equal(clusters_of(graph, count, str(tmp_path), "same"), found)
        np.testing.assert_array_equal(clusters_of(graph, count), found)
    assert (made[0] != made[2]).any() and made[1].max() == 4


def test_more_clusters_than_training_nodes_are_refused():
    with pytest.raises(DataError, match="clusters are from 1 to 20 training nodes, not 21"):
        graph_dataset(clusters=21)
    with pytest.raises(ValueError, match="first_product is one of"):
        graph_dataset(first_product="sum")


@pytest.mark.parametrize("metis", [True, False])
def test_clusters_cover_the_graph_and_lie_in_their_cache(metis, tmp_path, monkeypatch):
    """A ring of 60 nodes: neither way cuts more edges than clusters have ends."""
    if metis and not has_metis():
        pytest.skip("pymetis is not installed: it is optional")
    monkeypatch.setattr("ist_jax.data.clusters.has_metis", lambda: metis)
    node = np.arange(60)
    ring = sp.csr_matrix((np.ones(60), (node, (node + 1) % 60)), shape=(60, 60), dtype=np.float32)
    ring = (ring + ring.T).tocsr()
    found = clusters_of(ring, 6, str(tmp_path), "ring")
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4, 5] and np.bincount(found).max() <= 12
    senders, receivers = ring.nonzero()
    assert (found[senders] != found[receivers]).sum() <= 6 * 2 * 2
    (file,) = tmp_path.glob("clusters_*.npy")
    monkeypatch.setattr("ist_jax.data.clusters.by_metis", None)
    monkeypatch.setattr("ist_jax.data.clusters._without_gaps", None)
    if not metis:  # read, and not made again
        np.testing.assert_array_equal(clusters_of(ring, 6, str(tmp_path), "ring"), found)
    monkeypatch.undo()
    monkeypatch.setattr("ist_jax.data.clusters.has_metis", lambda: metis)
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(clusters_of(ring, 6, str(tmp_path), "ring"), found)
    assert len(clusters_of(ring, 6, "/proc/nowhere", "ring")) == 60, "a folder that cannot be written keeps nothing"
    assert np.bincount(by_bandwidth(ring, 7)).max() <= 9


def test_how_a_graph_is_cut_is_recorded_and_part_of_the_fingerprint(monkeypatch):
    whole, found = graph_dataset(), graph_dataset(clusters=4)
    cut = "by_metis" if has_metis() else "by_bandwidth"
    assert found.notes["cut"] == cut and found.notes["parts"] == 4 and len(found.notes["cut_sha256"]) == 64
    assert "cut" not in whole.notes and whole.fingerprint != found.fingerprint == graph_dataset(clusters=4).fingerprint
    assert graph_dataset(clusters=5).fingerprint != found.fingerprint
    monkeypatch.setattr("ist_jax.data.graph_dataset.way", lambda: by_bandwidth)
    monkeypatch.setattr("ist_jax.data.clusters.way", lambda: lambda matrix, clusters: np.arange(40) % clusters)
    assert graph_dataset(clusters=4).fingerprint != found.fingerprint, "the same data, cut elsewhere"


def test_inductive_training_sees_the_training_nodes_alone():
    found = graph_dataset(raw_graph(inductive=True), first_product="mean")
    inside, whole = found.arrays("train"), found.arrays("test")
    assert len(inside["label_N"]) == 20 and len(whole["label_N"]) == 40
    assert (inside["graph"].neighbours_NxW <= 20).all() and inside["graph"].features.shape == (20, 2, 12)


@pytest.mark.parametrize("first_product", ["none", "symmetric", "mean"])
def test_inductive_training_is_that_on_a_graph_without_the_other_nodes(first_product):
    """Its first products and degrees, too: nothing of a node that validates or tests is summed into one that trains."""
    raw = raw_graph(inductive=True)
    inside = graph_dataset(raw, first_product=first_product).arrays("train")["graph"]
    place = np.cumsum(raw.train_N) - 1
    edges = place[raw.edges_2xE[:, raw.train_N[raw.edges_2xE].all(axis=0)]]
    splits = np.eye(3, int(raw.train_N.sum()), dtype=bool)
    inner = dict(features_NxD=raw.features_NxD[raw.train_N], labels_N=np.zeros(splits.shape[1], int), edges_2xE=edges)
    inner |= dict(train_N=splits[0], validation_N=splits[1], test_N=splits[2])
    alone = raw._replace(**inner, inductive=False)
    expected = graph_dataset(alone, first_product=first_product).arrays("test")["graph"]
    np.testing.assert_allclose(inside.features, expected.features, rtol=1e-6)
    np.testing.assert_array_equal(inside.degree_N, expected.degree_N)
    assert (inside.degree_N < graph_dataset(raw).arrays("test")["graph"].degree_N[raw.train_N]).any()


def npz_graph(**changes):
    raw = raw_graph()
    arrays = dict(node_features=raw.features_NxD, node_labels=raw.labels_N, edges=raw.edges_2xE.T)
    return arrays | dict(train_mask=raw.train_N, val_mask=raw.validation_N, test_mask=raw.test_N) | changes


def test_graph_npz(tmp_path):
    np.savez(tmp_path / "own.npz", **npz_graph())
    found = data.load("graph_npz", str(tmp_path / "own.npz"))
    assert found.fingerprint == data.load("graph_npz", str(tmp_path / "own.npz")).fingerprint
    assert found.notes["nodes"] == 40 and found.notes["edges"] == graph_dataset().notes["edges"]
    assert len(data.load("graph_npz", str(tmp_path / "own.npz"), "inductive").arrays("train")["label_N"]) == 20
    cut = data.load("graph_npz", str(tmp_path / "own.npz"), graph=data.GraphOptions(clusters=4))
    assert len(list(tmp_path.glob("clusters_*.npy"))) == 1 and cut.notes["parts"] == 4, "kept beside the file"
    with pytest.raises(DataError, match="'inductive', not 'deductive'"):
        data.load("graph_npz", str(tmp_path / "own.npz"), "deductive")
    np.savez(tmp_path / "less.npz", **{name: value for name, value in npz_graph().items() if name != "edges"})
    with pytest.raises(DataError, match="edges missing; it holds node_features"):
        data.load("graph_npz", str(tmp_path / "less.npz"))
    np.savez(tmp_path / "pickled.npz", **npz_graph(edges=np.array([Evil()])))
    with pytest.raises(DataError, match="hold pickled objects"):
        data.load("graph_npz", str(tmp_path / "pickled.npz"))


def test_digits_graph_is_embedded():
    found = data.load("digits_graph")
    assert found.notes["nodes"] == 1797 and found.num_classes == 10 and found.arrays("train")["counted_N"].sum() == 200


def test_reddit_of_a_small_file_of_its_format(tmp_path):
    raw = raw_graph()
    types = np.select([raw.train_N, raw.validation_N], [1, 2], 3)
    np.savez(tmp_path / "reddit_data.npz", feature=raw.features_NxD, label=raw.labels_N, node_types=types, node_ids=types)
    np.savez(tmp_path / "reddit_graph.npz", row=raw.edges_2xE[0], col=raw.edges_2xE[1], data=raw.edges_2xE[0])
    found = data.load("reddit", str(tmp_path))
    x = found.arrays("train")["graph"].features
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    assert len(x) == 20 and found.notes["nodes"] == 40
    np.savez(tmp_path / "reddit_data.npz", feature=raw.features_NxD, label=raw.labels_N, node_types=types[:-1])
    with pytest.raises(DataError, match="a type and features of every node"):
        data.load("reddit", str(tmp_path))
    with pytest.raises(DataError, match="reddit_data.npz.*is not a file; reddit needs one with feature"):
        data.load("reddit", str(tmp_path / "elsewhere"))


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def test_ogbn_of_a_small_folder_of_its_format(tmp_path):
    raw = raw_graph()
    write_csv(tmp_path / "raw" / "node-feat.csv.gz", raw.features_NxD)
    write_csv(tmp_path / "raw" / "node-label.csv.gz", raw.labels_N[:, None])
    write_csv(tmp_path / "raw" / "edge.csv.gz", raw.edges_2xE.T)
    for kind in ("time", "sales_ranking"):
        for part, mask in (("train", raw.train_N), ("valid", raw.validation_N), ("test", raw.test_N)):
            write_csv(tmp_path / "split" / kind / f"{part}.csv.gz", np.flatnonzero(mask)[:, None])
    arxiv, products = data.load("ogbn_arxiv", str(tmp_path)), data.load("ogbn_products", str(tmp_path))
    assert arxiv.notes["edges"] == graph_dataset().notes["edges"] and len(arxiv.arrays("train")["label_N"]) == 40
    assert len(products.arrays("train")["label_N"]) == 20, "training sees the training nodes alone"
    assert (arxiv.num_classes, products.num_classes) == (40, 47), "of the data set, whatever training nodes have"
    write_csv(tmp_path / "split" / "time" / "valid.csv.gz", [[40]])
    with pytest.raises(DataError, match="the valid split names nodes 0 to 39"):
        data.load("ogbn_arxiv", str(tmp_path))
    (tmp_path / "raw" / "edge.csv.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(DataError, match="edge.csv.gz: cannot be read as numbers between commas"):
        data.load("ogbn_arxiv", str(tmp_path))
    (tmp_path / "raw" / "edge.csv.gz").unlink()
    with pytest.raises(DataError, match="edge.csv.gz is missing; data.dir is a folder with raw/ and split/"):
        data.load("ogbn_arxiv", str(tmp_path))
