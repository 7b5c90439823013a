"""Graph data sets: projection, symmetric edges, clusters, and what training may see."""

import numpy as np
import pytest
import scipy.sparse as sp
from cases import graph_dataset, raw_graph

from ist_jax.data import DataError
from ist_jax.data.clusters import by_bandwidth, clusters_of, has_metis
from ist_jax.data.graphs import adjacency_of


def test_projected_features_are_dense_keep_distances_and_follow_the_seed():
    features = sp.random(40, 3000, 0.01, random_state=0).toarray().astype(np.float32)
    raw = raw_graph(features_NxD=features)
    options = dict(first_product="symmetric", sparse_below=0.1)
    first, again, other = (
        graph_dataset(raw, projection=1000, seed=seed, **options) for seed in (0, 0, 1)
    )
    x, same, another = (data.arrays("test")["graph"].features for data in (first, again, other))
    assert first.spec.example_shape == (1000,)
    assert x.dtype == np.float32 and (x != 0).mean() > 0.9, "no longer sparse"
    np.testing.assert_array_equal(x, same)
    assert np.abs(x - another).max() > 0.01, "another projection"
    assert first.fingerprint == other.fingerprint, "of the same data"
    assert first.notes["projection"] == 1000 and "projection" not in graph_dataset(raw).notes
    distances = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(40, 1)]
    plain = graph_dataset(raw, projection=1000).arrays("test")["graph"].features
    ratio = distances(plain) / distances(features)
    assert ratio.min() > 0.8 and ratio.max() < 1.2, "Johnson and Lindenstrauss"
    inside = (
        graph_dataset(raw._replace(inductive=True), projection=8).arrays("train")["graph"].features
    )
    np.testing.assert_allclose(
        inside, graph_dataset(raw, projection=8).arrays("test")["graph"].features[raw.train_N]
    )


def test_edges_are_made_symmetric_single_and_without_loops():
    raw = raw_graph(edges_2xE=np.array([[0, 1, 1, 2, 2, 5], [1, 0, 2, 1, 2, 6]]).repeat(2, axis=1))
    matrix, done = adjacency_of(raw)
    assert (matrix != matrix.T).nnz == 0 and matrix.nnz == 6 and matrix.diagonal().sum() == 0
    expected = {
        "self_edges_removed": 2,
        "duplicate_edges_removed": 5,
        "reverse_edges_added": 1,
        "isolated_nodes": 35,
    }
    assert done == expected


N = 40
WRONG = {
    "edges join nodes 0 to 39, and one names node 40": dict(edges_2xE=np.array([[0], [40]])),
    "and one names node -1": dict(edges_2xE=np.array([[0], [-1]])),
    "edges are integers of shape .2, E.; they are float64": dict(edges_2xE=np.zeros((2, 3))),
    "edges are integers of shape .2, E.; they are int64.3, 3.": dict(
        edges_2xE=np.zeros((3, 3), int)
    ),
    "features have a node axis": dict(features_NxD=np.zeros(N)),
    "features are finite": dict(features_NxD=np.full((N, 2), np.nan)),
    "one integer label per node": dict(labels_N=np.zeros(N + 1, int)),
    "there are no validation nodes": dict(validation_N=np.zeros(N, bool)),
    "and 10 are in several": dict(test_N=np.arange(N) % 4 == 0, validation_N=np.arange(N) % 2 == 1),
    "the train split is a bool per node": dict(train_N=np.arange(3)),
    "labels of nodes in a split count from 0": dict(labels_N=np.arange(N) - 1),
    "label 9 never occurs in training": dict(labels_N=np.where(np.arange(N) == 1, 9, 0)),
    "without large gaps; 20 nodes have a label 500": dict(
        labels_N=np.where(np.arange(N) == 0, 500, 0)
    ),
}


@pytest.mark.parametrize("says", sorted(WRONG))
def test_a_wrong_graph_raises_an_error_that_names_the_fault(says):
    with pytest.raises(DataError, match=says):
        graph_dataset(raw_graph()._replace(**WRONG[says]))


def test_classes_without_a_training_node_are_known_and_recorded():
    """ogbn-products has five of them."""
    raw = raw_graph()
    label_N = raw.labels_N.copy()
    label_N[np.flatnonzero(raw.test_N)[0]] = 46
    data = graph_dataset(raw._replace(labels_N=label_N, num_classes=47))
    untrained = 47 - len(np.unique(raw.labels_N))
    assert data.num_classes == 47 and data.notes["classes without a training node"] == untrained
    with pytest.raises(
        DataError, match="labels are below 46, the number of classes, and one is 46"
    ):
        graph_dataset(raw._replace(labels_N=label_N, num_classes=46))


@pytest.mark.parametrize("label", [-100, 99])
def test_the_labels_of_nodes_in_no_split_do_not_matter(label):
    raw = raw_graph()
    free = np.flatnonzero(raw.test_N)[:3]
    test_N = raw.test_N & ~np.isin(np.arange(len(raw.test_N)), free)
    label_N = raw.labels_N.copy()
    label_N[free] = label
    for part in ("train", "test"):
        data = graph_dataset(raw._replace(labels_N=label_N, test_N=test_N))
        stored_N = data.arrays(part)["label_N"]
        assert stored_N.min() >= 0 and stored_N.max() < graph_dataset(raw).num_classes


def test_a_damaged_cache_of_clusters_is_replaced(tmp_path):
    matrix, _ = adjacency_of(raw_graph())
    whole = clusters_of(matrix, 4, str(tmp_path), "name")
    (file,) = tmp_path.iterdir()
    for damaged in (whole - 1, whole.astype(float), whole + 10**6, np.where(whole == 1, 2, whole)):
        np.save(file, damaged)
        np.testing.assert_array_equal(clusters_of(matrix, 4, str(tmp_path), "name"), whole)


def test_clusters_of_another_graph_or_number_have_another_file(tmp_path):
    """The graphs have equally many nodes and edges, one folder and one name."""
    ring, nodes = lambda step: (np.arange(60), (np.arange(60) + step) % 60), (60, 60)
    graphs = [sp.csr_matrix((np.ones(60), ring(step)), shape=nodes) for step in (1, 7)]
    graphs = [(graph + graph.T).tocsr() for graph in graphs]
    asked = [(graph, count) for graph in graphs for count in (4, 5)]
    made = [clusters_of(graph, count, str(tmp_path), "same") for graph, count in asked]
    assert len(list(tmp_path.glob("clusters_*.npy"))) == 4
    for (graph, count), cluster_N in zip(asked, made):
        np.testing.assert_array_equal(clusters_of(graph, count, str(tmp_path), "same"), cluster_N)
        np.testing.assert_array_equal(clusters_of(graph, count), cluster_N)
    assert (made[0] != made[2]).any() and made[1].max() == 4


def test_more_clusters_than_training_nodes_raise_an_error():
    with pytest.raises(DataError, match="clusters are from 1 to 20 training nodes, not 21"):
        graph_dataset(clusters=21)
    with pytest.raises(ValueError, match="first_product is one of"):
        graph_dataset(first_product="sum")


@pytest.mark.parametrize("metis", [True, False])
def test_clusters_cover_the_graph_and_are_cached(metis, tmp_path, monkeypatch):
    """In a ring of 60 nodes, neither method cuts more edges than clusters have ends."""
    if metis and not has_metis():
        pytest.skip("pymetis is not installed: it is optional")
    monkeypatch.setattr("ist_jax.data.clusters.has_metis", lambda: metis)
    node = np.arange(60)
    ring = sp.csr_matrix((np.ones(60), (node, (node + 1) % 60)), shape=(60, 60), dtype=np.float32)
    ring = (ring + ring.T).tocsr()
    cluster_N = clusters_of(ring, 6, str(tmp_path), "ring")
    assert sorted(np.unique(cluster_N)) == [0, 1, 2, 3, 4, 5] and np.bincount(cluster_N).max() <= 12
    senders, receivers = ring.nonzero()
    assert (cluster_N[senders] != cluster_N[receivers]).sum() <= 6 * 2 * 2
    (file,) = tmp_path.glob("clusters_*.npy")
    with monkeypatch.context() as patch:
        patch.setattr("ist_jax.data.clusters._without_gaps", None)  # read, and not computed again
        np.testing.assert_array_equal(clusters_of(ring, 6, str(tmp_path), "ring"), cluster_N)
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(clusters_of(ring, 6, str(tmp_path), "ring"), cluster_N)
    assert len(clusters_of(ring, 6, "/proc/nowhere", "ring")) == 60, (
        "a read-only folder is no error"
    )
    assert np.bincount(by_bandwidth(ring, 7)).max() <= 9


def test_how_a_graph_is_cut_is_recorded_and_part_of_the_fingerprint(monkeypatch):
    whole, data = graph_dataset(), graph_dataset(clusters=4)
    cut = "by_metis" if has_metis() else "by_bandwidth"
    assert data.notes["cut"] == cut and data.notes["parts"] == 4
    assert len(data.notes["cut_sha256"]) == 64 and "cut" not in whole.notes
    assert whole.fingerprint != data.fingerprint == graph_dataset(clusters=4).fingerprint
    assert graph_dataset(clusters=5).fingerprint != data.fingerprint
    monkeypatch.setattr("ist_jax.data.graph_dataset.cutting_method", lambda: by_bandwidth)

    def by_number(matrix, clusters):
        return np.arange(40) % clusters

    monkeypatch.setattr("ist_jax.data.clusters.cutting_method", lambda: by_number)
    assert graph_dataset(clusters=4).fingerprint != data.fingerprint, "the same data, cut elsewhere"


def test_inductive_training_sees_the_training_nodes_alone():
    data = graph_dataset(raw_graph(inductive=True), first_product="mean")
    inside, whole = data.arrays("train"), data.arrays("test")
    assert len(inside["label_N"]) == 20 and len(whole["label_N"]) == 40
    assert (inside["graph"].neighbours_NxW <= 20).all()
    assert inside["graph"].features.shape == (20, 2, 12)


@pytest.mark.parametrize("first_product", ["none", "symmetric", "mean"])
def test_inductive_training_is_that_on_a_graph_without_the_other_nodes(first_product):
    """Also in first products and degrees: no other node is summed into a training node."""
    raw = raw_graph(inductive=True)
    inside = graph_dataset(raw, first_product=first_product).arrays("train")["graph"]
    place = np.cumsum(raw.train_N) - 1
    edges = place[raw.edges_2xE[:, raw.train_N[raw.edges_2xE].all(axis=0)]]
    splits = np.eye(3, int(raw.train_N.sum()), dtype=bool)
    inner = dict(
        features_NxD=raw.features_NxD[raw.train_N],
        labels_N=np.zeros(splits.shape[1], int),
        edges_2xE=edges,
    )
    inner |= dict(train_N=splits[0], validation_N=splits[1], test_N=splits[2])
    alone = raw._replace(**inner, inductive=False)
    expected = graph_dataset(alone, first_product=first_product).arrays("test")["graph"]
    np.testing.assert_allclose(inside.features, expected.features, rtol=1e-6)
    np.testing.assert_array_equal(inside.degree_N, expected.degree_N)
    whole = graph_dataset(raw).arrays("test")["graph"]
    assert (inside.degree_N < whole.degree_N[raw.train_N]).any()
