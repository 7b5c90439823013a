"""Laws 4, 5 and 7 to 10 for GCN, GraphSAGE and GAT on one graph, with dropout."""

import collections
import functools

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
    also_slowly,
    graph_dataset,
    one_round,
    params_of,
    random_params,
    raw_graph,
    rounds,
)
from laws import assert_close, check_law_5, check_law_7, check_law_10

from ist_jax import data_parallel, ensemble, ist, replicated
from ist_jax.core.graphs import Layered, SparseMatrix
from ist_jax.core.keys import named_key
from ist_jax.core.placement import looped, sharded, subnet_mesh, vmapped
from ist_jax.core.subnet import is_label, label_axes
from ist_jax.decompositions import gat, gcn, sage
from ist_jax.methods.base import Start
from ist_jax.models import GAT, GCN, GraphSAGE
from ist_jax.tasks import node_classification
from ist_jax.training.loop import Phase

TASK = node_classification()
# name -> how its graph is laid out, its model, its decomposition
KINDS = {
    "gcn": (dict(layers=3, sparse_below=2.0), GCN((8, 8), CLASSES, norm="layer", dropout=0.5), gcn),
    "gcn, input whole": (
        dict(layers=3),
        GCN((8, 8), CLASSES, dropout=0.5, input_dropout=False),
        gcn,
    ),
    "sage": (dict(layers=3), GraphSAGE((8, 8), CLASSES, dropout=0.5), sage),
    "gat": (dict(layers=3), GAT((4, 4), CLASSES, heads=2, dropout=0.5), gat),
}
PLACES = {
    "looped": looped,
    "vmapped": vmapped,
    "one on a device": lambda: sharded(subnet_mesh(4)),
    "two on a device": lambda: sharded(subnet_mesh(2)),
}
by_kind = pytest.mark.parametrize("kind", also_slowly(["gcn"], KINDS))
DONE = collections.defaultdict(dict)  # case -> the results of law 5 so far
slow = pytest.mark.slow


@functools.cache
def data_of(kind):
    layout, model, _ = KINDS[kind]
    return graph_dataset(first_product=FIRST_PRODUCTS[type(model)], **layout)


def split_of(kind, num_subnets):
    _, model, decompose = KINDS[kind]
    return decompose(model, FEATURES, num_subnets=num_subnets)


def ist_of(kind, num_subnets, tx, place, **options):
    return ist(split_of(kind, num_subnets), TASK, tx, batch_size=1, placement=place, **options)


@by_kind
def test_the_graphs_are_laid_out_as_those_of_runs(kind):
    graph = data_of(kind).arrays("train")["graph"]
    assert isinstance(graph, Layered) == (kind != "gat") and isinstance(
        graph.features, SparseMatrix
    ) == (kind == "gcn")


TWO = ("looped", "one on a device")


@pytest.mark.parametrize(
    "kind,opt_state,places",
    [
        ("gcn", "carry", TWO),
        *(pytest.param(kind, "carry", PLACES, marks=slow) for kind in KINDS),
        pytest.param("gcn", "reset", PLACES, marks=slow),
    ],
    ids=lambda value: "all" if value is PLACES else "two" if value is TWO else value,
)
def test_law_5_all_placements_agree(kind, opt_state, places):
    """The partition and dropout exactly, parameters and momentum to rounding: data are float32."""
    start = Start(random_params(split_of(kind, 4)), None, jnp.zeros((), jnp.int32))
    make = lambda place: ist_of(kind, 4, optax.sgd(0.05, momentum=0.9), place, opt_state=opt_state)
    places = {name: PLACES[name] for name in places}
    done = DONE[kind, opt_state]
    check_law_5(make, places, data_of(kind), start, rtol=1e-3, atol=1e-4, done=done)


BASELINES = {
    "local_sgd": lambda split, options: ist(
        replicated(split, 4), TASK, optax.sgd(0.05, momentum=0.9), **options
    ),
    "data_parallel": lambda split, options: data_parallel(
        replicated(split, 4), TASK, optax.sgd(0.05, momentum=0.9), num_workers=4, **options
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_law_5_for_full_models(name):
    """Baselines with sparse features and dropout; the second round compiles nothing."""
    split, made = split_of("gcn", 4), []
    start = Start(random_params(split), None, jnp.zeros((), jnp.int32))

    def make(place):
        made.append(BASELINES[name](split, dict(batch_size=1, placement=place)))
        return made[-1]

    check_law_5(make, PLACES, data_of("gcn"), start, rtol=1e-3, atol=1e-4)
    assert [method.round._cache_size() for method in made] == [1] * len(PLACES)


@pytest.mark.parametrize("place", also_slowly(["one on a device"], ["looped", "one on a device"]))
def test_an_ensemble_predicts_the_mean_of_its_members_for_every_node(place):
    split, data = split_of("gcn", 4), data_of("gcn")
    method = ensemble(split, TASK, optax.sgd(0.05), batch_size=1, placement=PLACES[place]())
    state, _ = rounds(method, 2, 2, data)
    batch = TASK.batch(data.on_device("test", method.sharding), jnp.arange(1), None)
    mean_NxC, members_SxNxC = jax.jit(
        lambda state: (
            method.predictor(state, None)(batch),
            method.predictor(state, None, subnets=True)(batch),
        )
    )(state)
    assert members_SxNxC.shape == (4, 40, CLASSES) and np.std(members_SxNxC, axis=0).max() > 1e-2
    np.testing.assert_allclose(mean_NxC, np.mean(members_SxNxC, axis=0), rtol=1e-4, atol=1e-5)


@by_kind
def test_law_4_one_subnetwork_is_plain_training(kind):
    """Without dropout: a loop as anybody would write it, over the same graph."""
    _, model, decompose = KINDS[kind]
    model, tx = model.clone(dropout=0.0), optax.sgd(0.05, momentum=0.9)
    split = decompose(model, FEATURES, num_subnets=1)
    method = ist(split, TASK, tx, batch_size=1, placement=looped(), opt_state="carry")
    state, _ = rounds(method, 2, 2, data_of(kind))
    view = next(
        data_of(kind).views(
            jax.random.key(5), 1, jax.sharding.SingleDeviceSharding(jax.devices()[0]), [range(1)]
        )
    )
    batch = TASK.batch(view.arrays, jnp.arange(1), None)

    @jax.jit
    def step(params, opt_state):
        gradient = jax.grad(lambda p: TASK.loss(split.full, p, batch, ROOT)[0])(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = split.init(named_key(ROOT, "init"))
    opt_state = tx.init(params)
    for _ in range(4):
        params, opt_state = step(params, opt_state)
    assert_close(params_of(method, state), params, rtol=1e-3, atol=1e-5)


METHODS = {
    "ist": lambda split, options: ist(split, TASK, **options),
    "ensemble": lambda split, options: ensemble(split, TASK, **options),
    "local_sgd": lambda split, options: ist(replicated(split, 2), TASK, **options),
    "data_parallel": lambda split, options: data_parallel(
        replicated(split, 2), TASK, num_workers=2, **options
    ),
}
# all methods on one kind of graph, and one method on all kinds
CASES = [*((name, "gcn") for name in METHODS), *(("ist", kind) for kind in KINDS if kind != "gcn")]
by_method_and_kind = pytest.mark.parametrize(
    "name,kind", also_slowly([("data_parallel", "gcn"), ("ist", "gat")], CASES)
)


def method_by_name(name, kind, tx, place):
    return METHODS[name](split_of(kind, 2), dict(tx=tx, batch_size=1, placement=PLACES[place]()))


@by_method_and_kind
def test_law_7_exactly_the_configured_local_steps_reach_the_global_model(name, kind):
    """With dropout."""
    check_law_7(lambda tx: method_by_name(name, kind, tx, "vmapped"), data_of(kind), 3)


@pytest.mark.slow
@by_kind
def test_law_8_workers_that_see_one_graph_start_alike_and_drop_their_own_features(kind):
    """Copies of one model: first losses differ by dropout alone; with clusters, by the batch."""
    _, model, decompose = KINDS[kind]
    split = lambda dropout: decompose(model.clone(dropout=dropout), FEATURES, num_subnets=4)

    def first_losses(dropout, data):
        method = ist(
            replicated(split(dropout), 4), TASK, optax.sgd(0.1), batch_size=1, placement=vmapped()
        )
        return np.asarray(rounds(method, 1, 1, data)[1]["loss_SxJ"][:, 0])

    graph, clusters = (
        graph_dataset(first_product=FIRST_PRODUCTS[type(model)], clusters=count) for count in (1, 5)
    )
    np.testing.assert_allclose(first_losses(0.0, graph), first_losses(0.0, graph)[0], rtol=1e-6)
    assert len(set(first_losses(0.5, graph))) == 4 and len(set(first_losses(0.0, clusters))) > 1, (
        "two may draw one cluster"
    )


@by_method_and_kind
def test_law_9_the_second_round_compiles_nothing_and_init_works_on_shapes_alone(name, kind):
    method = method_by_name(name, kind, optax.adam(0.01), "vmapped")
    described = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)
    state, metrics = rounds(method, 2, 2, data_of(kind))
    assert method.round._cache_size() == 1 and metrics["loss_SxJ"].shape == (2, 2)
    assert described(jax.eval_shape(method.init, ROOT)) == described(state)


@by_method_and_kind
def test_what_is_lost_reaches_nobody(name, kind):
    """If all are lost, the parameters stay. If one is, those that only it held stay."""
    method, data = method_by_name(name, kind, optax.adam(0.01), "vmapped"), data_of(kind)
    before = params_of(method, method.fresh(ROOT))

    def after(*weights):
        view = next(data.views(jax.random.key(5), 2, method.sharding, [range(1)]))
        state, _ = one_round(method, method.fresh(ROOT), view, ROOT, np.array(weights), 2)
        return params_of(method, state), state.indices

    jax.tree.map(np.testing.assert_array_equal, after(0.0, 0.0)[0], before)
    params, indices = after(1.0, 0.0)
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), params, before)
    assert any(leaf.any() for leaf in jax.tree.leaves(moved))
    if name == "ist":
        split = split_of(kind, 2)
        labels = jax.tree.leaves(
            label_axes(before, split.rules, split.partition.sizes), is_leaf=is_label
        )
        for label, leaf in zip(labels, jax.tree.leaves(moved), strict=True):
            for axis, group in label.groups:
                units = np.flatnonzero(
                    leaf.any(axis=tuple(a for a in range(leaf.ndim) if a != axis))
                )
                assert set(units) <= set(np.asarray(indices[group][0]).tolist()), (
                    "the units of the remaining worker"
                )


@pytest.mark.slow
@by_kind
def test_nothing_is_quadratic_in_nodes(kind):
    """Twice the nodes, with as many neighbours each: about twice the FLOPs and bytes of a round."""
    layout, model, _ = KINDS[kind]
    costs = []
    for nodes in (1000, 2000):
        data = graph_dataset(raw_graph(nodes), first_product=FIRST_PRODUCTS[type(model)], **layout)
        method = ist_of(kind, 4, optax.sgd(0.05), vmapped())
        view = next(data.views(ROOT, 4, method.sharding, [range(1)]))
        program = method.round.lower(method.fresh(ROOT), view, ROOT, jnp.ones(4), steps=1).compile()
        memory = program.memory_analysis()
        costs.append(
            [
                memory.temp_size_in_bytes,
                memory.argument_size_in_bytes,
                program.cost_analysis()["flops"],
            ]
        )
    assert (np.array(costs[1]) < 2.3 * np.array(costs[0])).all() and costs[1][0] > 1.5 * costs[0][
        0
    ], costs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gcn", "gat"])
def test_law_10_a_run_resumes_exactly_where_it_stopped(kind, tmp_path):
    """With dropout and moments of Adam that go with their features."""

    def phases():
        return [
            Phase(ist_of(kind, 4, optax.adam(1e-2), vmapped(), opt_state="carry"), 4 * 2 * 4, 2)
        ]

    check_law_10(phases, TASK, data_of(kind), tmp_path, [2])
