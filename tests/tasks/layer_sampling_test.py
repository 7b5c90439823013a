"""LADIES: sums over sampled nodes against sums over all nodes, and runs with sampled batches."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CLASSES,
    FEATURES,
    FIRST_PRODUCTS,
    ROOT,
    graph_dataset,
    placements,
    random_params,
    raw_graph,
    rounds,
)
from graph_cases import TASK, assert_close, device_arrays, task_loss

from ist_jax import ist, run
from ist_jax.analysis.meter import Programs
from ist_jax.cli.commands import run as command
from ist_jax.core.sample_order import draw
from ist_jax.decompositions import gcn, sage
from ist_jax.models import GCN, GraphSAGE
from ist_jax.tasks import node_classification
from ist_jax.tasks.layer_sampling import draw_nodes, sample_layers
from ist_jax.training.loop import LoopConfig

RAW = raw_graph()
MODELS = [(gcn, GCN((8, 6), CLASSES)), (sage, GraphSAGE((8, 6), CLASSES))]


def arrays_of(model, count):
    data = graph_dataset(first_product=FIRST_PRODUCTS[type(model)], layer_nodes=count)
    return device_arrays(data, "train")


def batch_of(model, count, nodes=None, key=ROOT):
    """(batch of sampled nodes, the nodes of its logits)."""
    arrays = arrays_of(model, count)
    index_B = jnp.arange(arrays["node"].shape[0]) if nodes is None else jnp.array(nodes)
    make = jax.jit(
        lambda index_B: node_classification(count, len(model.hidden)).batch(arrays, index_B, key)
    )
    return make(index_B), arrays["node"][index_B]


@pytest.mark.parametrize("make,model", MODELS, ids=["gcn", "sage"])
def test_with_all_nodes_sampled_loss_and_gradient_are_those_of_the_full_graph(make, model):
    params = random_params(make(model, FEATURES, num_subnets=1))
    arrays = arrays_of(model, 40)
    loss = jax.jit(jax.value_and_grad(lambda params, batch: task_loss(model, params, batch)))
    batch, node_B = batch_of(model, 40)
    (value, gradient), (full_value, expected) = (
        loss(params, batch),
        loss(params, TASK.batch(arrays, jnp.arange(1), None)),
    )
    np.testing.assert_allclose(value, full_value, rtol=1e-5)
    assert_close(gradient, expected, rtol=2e-3, atol=1e-5)
    apply = jax.jit(lambda x: model.apply({"params": params}, x))
    np.testing.assert_allclose(
        apply(batch["x"]), apply(arrays["graph"])[node_B], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("count", [1, 4, 9])
def test_draws_are_distinct_and_their_weighted_sum_is_unbiased(count):
    rng = np.random.default_rng(0)
    importance_N = jnp.asarray(
        np.where(np.arange(15) % 5 == 4, 0, rng.exponential(size=15)), jnp.float32
    )
    value_N = (
        jnp.asarray(rng.normal(size=16), jnp.float32).at[15].set(100.0)
    )  # 15: nobody, with weight 0
    keys = jax.random.split(ROOT, 20_000)
    node_KxM, weight_KxM = jax.vmap(lambda key: draw_nodes(importance_N, count, key))(keys)
    assert node_KxM.shape == (20_000, count)
    assert all(
        len(set(row)) == count and not set(row) & {4, 9, 14, 15}
        for row in np.asarray(node_KxM[:200]).tolist()
    )
    sums = np.asarray((weight_KxM * value_N[node_KxM]).sum(axis=1), np.float64)
    expected = float(value_N[:15][importance_N > 0].sum())
    assert abs(sums.mean() - expected) < 5 * sums.std() / np.sqrt(len(sums)), "five standard errors"
    assert sums.std() > 0.1, "draws differ"
    often = np.bincount(np.asarray(node_KxM).reshape(-1), minlength=15)
    heavy, light = (
        int(np.argmax(importance_N)),
        int(np.argmin(np.where(importance_N > 0, importance_N, 9))),
    )
    assert often[heavy] > 1.5 * often[light], "important nodes are drawn more often"


def test_more_draws_than_important_nodes_name_no_node_for_the_rest():
    importance_N = jnp.array([0.0, 2.0, 0.0, 1.0])
    for count, size in ((3, 3), (4, 4), (9, 4)):
        node_M, weight_M = map(np.asarray, draw_nodes(importance_N, count, ROOT))
        assert (
            len(node_M) == size
            and sorted(node_M[weight_M > 0]) == [1, 3]
            and set(node_M[weight_M == 0]) == {4}
        )
        np.testing.assert_array_equal(weight_M[weight_M > 0], 1)


@pytest.mark.parametrize("make,model", MODELS, ids=["gcn", "sage"])
def test_the_sum_over_neighbours_is_unbiased(make, model):
    """Over many draws, a block times the features below is the product with the full matrix."""
    arrays = arrays_of(model, 6)
    all_above = sample_layers(arrays, jnp.arange(40), ROOT, count=1, levels=1)
    matrix = all_above.blocks[0][:, :40]
    h_NxH = jax.random.normal(jax.random.key(2), (40, 3))
    node_B = arrays["node"][:7]

    def one(key):
        node_M = lower_of(arrays, node_B, key)
        return sample_layers(arrays, node_B, key, count=6, levels=1).blocks[0] @ h_NxH.at[
            node_M
        ].get(mode="fill", fill_value=0)

    sums = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(ROOT, 4000)), np.float64)
    error = sums.std(axis=0) / np.sqrt(len(sums))
    assert (
        np.abs(sums.mean(axis=0) - (matrix @ h_NxH)[node_B]) < 5 * error + 1e-5
    ).all() and error.max() > 0.001


def lower_of(arrays, node_B, key):
    """The sampled nodes, identified by features that are the numbers of the nodes."""
    graph = arrays["graph"]
    numbered = graph._replace(features=jnp.arange(1.0, 1 + len(arrays["take_N"]))[:, None])
    layered = sample_layers({**arrays, "graph": numbered}, node_B, key, count=6, levels=1)
    number = layered.features[:, 0]
    return jnp.where(number > 0, number - 1, len(arrays["take_N"])).astype(jnp.int32)


def test_shapes_are_static_and_draws_depend_on_the_key_alone():
    model = GraphSAGE((8, 6), CLASSES)
    make = jax.jit(lambda index_B, key: batch_of(model, 5, index_B, key)[0])
    batches = [
        make(jnp.array(nodes), key)
        for nodes in ([0, 1, 2], [9, 4, 7])
        for key in (ROOT, jax.random.key(8), ROOT)
    ]
    assert make._cache_size() == 1
    assert [block.shape for block in batches[0]["x"].blocks] == [(8, 13), (3, 8)]
    assert batches[0]["x"].features.shape == (13, 2, FEATURES) and batches[0]["y"].shape == (3,)
    first, other, again = (np.asarray(batch["x"].features) for batch in batches[:3])
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01, "another key, other nodes"
    np.testing.assert_array_equal(first[:3], other[:3]), "below themselves"


def test_a_node_that_is_named_twice_counts_once():
    model = GCN((8, 6), CLASSES)
    params = random_params(gcn(model, FEATURES, num_subnets=1))
    loss = jax.jit(lambda batch: task_loss(model, params, batch))
    once, *twice = (loss(batch_of(model, 40, nodes)[0]) for nodes in ([3, 5], [5, 3, 5], [3, 3, 5]))
    np.testing.assert_allclose(twice, once, rtol=1e-5)


def method_of(num_subnets, placement=None, batch_size=5):
    task = node_classification(6, 1)
    split = gcn(GCN((8,), CLASSES, dropout=0.5), FEATURES, num_subnets=num_subnets)
    return ist(split, task, optax.adam(1e-2), batch_size=batch_size, placement=placement), task


@pytest.mark.slow
def test_sub_gcns_sample_different_nodes_and_train_alike_in_all_placements():
    data = graph_dataset(first_product="symmetric", layer_nodes=6)
    assert data.num_train == RAW.train_N.sum(), "examples are training nodes"
    results = []
    for place in ("looped", "vmapped", "sharded-2"):
        method, _ = method_of(4, placements()[place]())
        state, metrics = rounds(method, 2, 2, data)
        assert len(np.unique(np.asarray(metrics["loss_SxJ"]))) == 8
        results.append(jax.device_get(method.params(state)))
    for params in results[1:]:
        assert_close(params, results[0], rtol=1e-4, atol=1e-5)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    view = next(data.views(ROOT, 2, device, [range(1)]))
    seen = [
        np.asarray(draw(view, jnp.int32(worker), jnp.int32(0), 20)).tolist() for worker in (0, 1)
    ]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(20)) and seen[0] != seen[1], (
        "a pass covers all training nodes once"
    )


def test_gist_learns_from_sampled_nodes_and_is_evaluated_on_the_full_graph():
    data = graph_dataset(raw_graph(200), first_product="symmetric", layer_nodes=20)
    method, task = method_of(2, batch_size=25)
    results = run([(method, 8000, 20)], task, data, LoopConfig(eval_every=0))
    assert results.summary["last"]["test"]["accuracy"] > 0.5


SMALL = ["--model.hidden", "16", "16", "--local_steps=3", "--time_syncs=False"]
CONFIG = f"--config={pathlib.Path(__file__).parent.parent.parent}/experiments/gist/digits_graph.py"


BATCHES = {
    "drawn": (
        ["--data.layer_nodes=30", "--batch_size=20", "--epochs=4"],
        (800, 10, 4),
    ),
    "clusters": (
        ["--data.clusters=20", "--batch_size=2", "--epochs=4"],
        (80, 10, 4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("batches", sorted(BATCHES))
def test_a_run_over_parts_of_a_graph_compiles_three_programs(batches, tmp_path, monkeypatch):
    """Rounds of 3 local steps, the last of 1, and the evaluation."""
    compiled = []
    get = Programs.get

    def counted(self, name, *given, **options):
        compiled.extend([name] if name not in self._compiled else [])
        return get(self, name, *given, **options)

    monkeypatch.setattr(Programs, "get", counted)
    options, expected = BATCHES[batches]
    assert command.main(["run", CONFIG, *SMALL, *options, f"--workdir={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["samples_seen"], summary["local_steps"], summary["rounds"]) == expected
    assert len(compiled) == 3, compiled
    notes = json.loads((tmp_path / "config.json").read_text())["environment"]["data"]["notes"]
    assert notes["clusters"] == (20 if batches == "clusters" else 1) and notes.get(
        "layer_nodes"
    ) == (None if batches == "clusters" else 30)


@pytest.mark.parametrize(
    "options,says",
    [
        (["--data.clusters=4"], "not go with data.clusters=4"),
        (["--model.name=gat"], "not go with model.name='gat'"),
        (["--model.norm=matrix"], "not go with model.norm='matrix'"),
        (["--data.layer_nodes=-1"], "data.layer_nodes is from 0"),
    ],
)
def test_options_that_exclude_sampling_end_a_run_with_an_error(options, says, tmp_path, capsys):
    assert (
        command.main(["run", CONFIG, "--data.layer_nodes=30", *options, f"--workdir={tmp_path}"])
        == 2
    )
    assert says in capsys.readouterr().err
