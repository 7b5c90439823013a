"""The laws of the mechanism, for every decomposition in `cases.DECOMPOSITIONS`.

One compiled program computes everything that a case needs; the tests look at its results.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CLASSES,
    DECOMPOSITIONS,
    EXAMPLE,
    FEATURES,
    TASK,
    also_slowly,
    inputs,
    random_params,
    targets,
)
from laws import check_law_6, masks, shapes_and_labels

from ist_jax.core.scaled import ScaledModel
from ist_jax.core.subnet import extract, extract_all, label_axes, map_labels, merge
from ist_jax.core.trees import check_all_match
from ist_jax.decompositions import gat, gcn, mlp, sage
from ist_jax.exchange import choose_holder_sharded
from ist_jax.models import GAT, GCN, MLP, GraphSAGE, LinenModel, linen
from ist_jax.models.graphs import neighbour_mean, symmetric_mean

CASES = [(name, 4) for name in DECOMPOSITIONS]
CASES += [(name, 1) for name in ("mlp", "custom", "gcn-uneven", "gat", "chain")]
CASES += [("mlp", 8), ("mlp-uneven", 8), ("custom", 2), ("recurrent", 2)]
CASES += [("gcn-split-input", 8)]  # 12 features: padded
# one of every kind of decomposition; the others slowly
FAST = {(name, 4) for name in ("mlp", "custom", "nnx", "blocks", "transformer")}
FAST |= {("gcn-split-input", 8)}


by_case = pytest.mark.parametrize("name,num_subnets", also_slowly(FAST, CASES))


def local_batch(decomposition, batch, units):
    sizes = {g: n for g, n in decomposition.partition.sizes.items() if g == "input"}
    return extract(batch, label_axes(batch, decomposition.batch_rules, sizes), units)


def train_two_steps(decomposition, tx, sub, batch):
    def step(carry, _):
        sub, state = carry
        loss = lambda p: TASK.loss(decomposition.subnet, p, batch, jax.random.key(0))[0]
        updates, state = tx.update(jax.grad(loss)(sub), state, sub)
        return (optax.apply_updates(sub, updates), state), None

    return jax.lax.scan(step, (sub, tx.init(sub)), length=2)[0][0]


def unscaled(model):
    """The model without factors on its sums."""
    if isinstance(model, ScaledModel):
        return model.model
    if not isinstance(model, LinenModel):
        return model
    module, ones = model.module, {"sum_scale": 1.0, "sum_scales": (), "residual_scales": ()}
    ones |= {"attention_scale": 1.0, "mlp_scale": 1.0}
    return linen(module.clone(**{name: one for name, one in ones.items() if hasattr(module, name)}))


@functools.cache
def case(name, num_subnets):
    """All that the tests of one case look at, as numpy arrays."""
    decomposition = DECOMPOSITIONS[name](num_subnets)
    parts = decomposition.partition
    _, labels = shapes_and_labels(decomposition)
    full = unscaled(decomposition.full)

    @jax.jit
    def compute(params, x, y):
        indices = parts.sample(jax.random.key(0), parts.first())
        sub_S = extract_all(params, labels, indices, num_subnets)
        changed_S = jax.tree.map(lambda leaf: 2 * leaf + 1, sub_S)
        mask_S = masks(labels, params, indices) if indices else None
        masked_S = jax.tree.map(lambda p, m: jnp.where(m > 0, p[None], 0), params, mask_S)

        def alone(units):
            sub, batch = (
                extract(params, labels, units),
                local_batch(decomposition, {"x": x, "y": y}, units),
            )
            trained = [
                train_two_steps(decomposition, tx, sub, batch)
                for tx in (optax.sgd(0.1, 0.9), optax.adamw(1e-2, weight_decay=0.1))
            ]
            return decomposition.subnet.apply(sub, batch["x"]), trained

        logits_S, trained_S = jax.lax.map(alone, indices)
        reference = REFERENCES.get(name, lambda full, p, x, units: full.apply(p, x))
        expected_S = jax.lax.map(
            lambda item: reference(full, item[0], x, item[1]), (masked_S, indices)
        )
        return dict(
            indices=indices,
            mask_S=mask_S,
            same=[
                merge(params, sub_S, labels, indices, disjoint=disjoint)
                for disjoint in (True, False)
            ],
            changed=merge(params, changed_S, labels, indices, disjoint=True),
            logits_S=logits_S,
            expected_S=expected_S,
            trained_S=trained_S,
        )

    params = random_params(decomposition)
    results = jax.device_get(compute(params, inputs(decomposition), targets(decomposition)))
    return SimpleNamespace(decomposition=decomposition, labels=labels, params=params, **results)


def masked_layer_norm(full, masked, x, units):
    """The masked full model, moments over the held units, written out."""
    for i in range(3):
        x = x @ masked[f"hidden_{i}"]["kernel"]
        index = units[f"hidden_{i}"]
        held = x[:, index]
        x = (x - held.mean(1, keepdims=True)) / jnp.sqrt(held.var(1, keepdims=True) + 1e-6)
        norm = masked[f"norm_{i}"]
        x = jax.nn.gelu(x * norm["scale"][None] + norm["bias"][None])
    return x @ masked["output"]["kernel"]


def masked_graphsage(full, masked, graph, units):
    """The same for GraphSAGE of one hidden layer."""
    held = (
        jnp.einsum("nkd,kdh->nh", graph.features, masked["hidden_0"]["kernel"])
        + masked["hidden_0"]["bias"][None]
    )
    held = held[:, units["hidden_0"]]
    held = (held - held.mean(1, keepdims=True)) / jnp.sqrt(held.var(1, keepdims=True) + 1e-5)
    h = jnp.zeros((len(held), 16)).at[:, units["hidden_0"]].set(jax.nn.relu(held))
    pair = jnp.stack([h, neighbour_mean(h, graph)], axis=1)
    return (
        jnp.einsum("nkd,kdh->nh", pair, masked["output"]["kernel"]) + masked["output"]["bias"][None]
    )


def masked_gcn(full, masked, graph, units):
    """The same for a GCN of two hidden layers; the features are sums over neighbours already."""
    propagate, h = symmetric_mean(graph), graph.features
    for i, over_nodes in enumerate([lambda h: h, propagate]):
        p, index = masked[f"hidden_{i}"], units[f"hidden_{i}"]
        held = (over_nodes(h @ p["kernel"]) + p["bias"][None])[:, index]
        held = (held - held.mean(1, keepdims=True)) / jnp.sqrt(held.var(1, keepdims=True) + 1e-5)
        h = jnp.zeros((len(held), p["bias"].shape[0])).at[:, index].set(jax.nn.relu(held))
    return propagate(h @ masked["output"]["kernel"]) + masked["output"]["bias"][None]


REFERENCES = {
    "mlp-deep-layer-norm": masked_layer_norm,
    "sage-layer-norm": masked_graphsage,
    "gcn-layer-norm": masked_gcn,
}


WITHOUT = {  # options with fewer parameters
    "mlp-no-norm": lambda: mlp(MLP((8,), CLASSES, norm="none"), EXAMPLE, num_subnets=2),
    "gcn-no-bias": lambda: gcn(GCN((8,), CLASSES, bias=False), FEATURES, num_subnets=2),
    "sage-no-bias": lambda: sage(GraphSAGE((8,), CLASSES, bias=False), FEATURES, num_subnets=2),
    "gat-no-bias": lambda: gat(GAT((8,), CLASSES, heads=2, bias=False), FEATURES, num_subnets=2),
}


@pytest.mark.parametrize("name", [*DECOMPOSITIONS, *WITHOUT])
def test_every_rule_has_a_leaf(name):
    split = WITHOUT[name]() if name in WITHOUT else DECOMPOSITIONS[name](2)
    shapes, _ = shapes_and_labels(split)
    check_all_match(split.rules, shapes)


@by_case
def test_law_1_merge_of_extract_is_the_identity_bit_for_bit(name, num_subnets):
    c = case(name, num_subnets)

    def same(label, merged, before):
        rtol = (
            0 if label.groups or num_subnets == 1 else 1e-6
        )  # a mean of equal copies is equal to rounding
        np.testing.assert_allclose(merged, before, rtol=rtol)

    for merged in c.same:
        map_labels(same, c.labels, merged, c.params)


@by_case
def test_law_1_entries_that_nobody_held_keep_their_bits(name, num_subnets):
    c = case(name, num_subnets)

    def check(label, before, after, mask_S):
        held = mask_S.max(axis=0) > 0
        np.testing.assert_array_equal(np.where(held, 0, before), np.where(held, 0, after))
        np.testing.assert_allclose(
            np.where(held, 2 * before + 1, 0), np.where(held, after, 0), rtol=1e-6
        )
        assert held.all() or len(label.groups) > 1, "every unit has a holder"
        if label.groups:
            assert mask_S.sum(axis=0).max() == 1, "and only one"

    map_labels(check, c.labels, c.params, c.changed, c.mask_S)


@by_case
def test_law_3_a_subnetwork_computes_what_the_masked_full_model_computes(name, num_subnets):
    c = case(name, num_subnets)
    np.testing.assert_allclose(c.logits_S, c.expected_S, rtol=1e-3, atol=1e-4)


@by_case
def test_subnetworks_have_the_shapes_of_the_shrunken_model(name, num_subnets):
    c = case(name, num_subnets)
    first = {group: index_SxM[0] for group, index_SxM in c.indices.items()}
    example = jax.eval_shape(
        lambda x: local_batch(c.decomposition, {"x": x}, first)["x"], c.decomposition.example
    )
    units = jax.eval_shape(c.decomposition.subnet.init, jax.random.key(0), example)
    trained_shapes = jax.tree.map(lambda leaf: leaf.shape[1:], c.trained_S[0])
    assert trained_shapes == jax.tree.map(lambda leaf: leaf.shape, units)


@by_case
def test_padded_units_stay_exactly_zero_in_training(name, num_subnets):
    c = case(name, num_subnets)
    sizes = c.decomposition.partition.sizes

    def check(label, leaf_S):
        for s, leaf in enumerate(leaf_S):
            for axis, group in label.groups:
                padding = c.indices[group][s] == sizes[group]
                assert not np.compress(padding, leaf, axis=axis).any()
                assert np.compress(~padding, leaf, axis=axis).any()

    for trained_S in c.trained_S:
        map_labels(check, c.labels, trained_S)
    if name == "mlp-uneven" and num_subnets > 1:
        assert any((index == sizes[group]).any() for group, index in c.indices.items()), (
            "this case pads"
        )


WHOLLY = (
    "mlp",
    "mlp-uneven",
    "custom",
)  # on meshes of every size; of the others, one subnetwork per device
MESHES = [
    (n, s, d, "balanced", False)
    for n, s in CASES
    for d in ([1, 2, 4, 8] if n in WHOLLY else [4, 8])
    if s % d == 0 and (s // d <= 2 or s == 1) and (n, s) != ("mlp", 1) and (s < 8 or d == 8)
]
MESHES += [
    (n, 4, d, p, True)
    for n, d, p in [
        ("mlp", 4, "balanced"),
        ("mlp-uneven", 2, "balanced"),
        ("custom", 4, "balanced"),
        ("mlp-uneven", 4, "blocks"),
        ("custom", 2, "blocks"),
    ]
]


def stored_partition(decomposition, labels, shapes, all_home_sharded):
    parts = decomposition.partition
    return parts if all_home_sharded else choose_holder_sharded(parts, labels, shapes)


# a few decompositions, and both layouts; the others slowly
FAST_MESHES = {
    ("mlp", 4, 4, "balanced", False),
    ("custom", 4, 2, "blocks", True),
}


@pytest.mark.parametrize(
    "name,num_subnets,num_devices,partition,all_home_sharded",
    also_slowly(FAST_MESHES, MESHES),
)
def test_law_6_the_mesh_exchange_is_extract_and_merge_bit_for_bit(
    name, num_subnets, num_devices, partition, all_home_sharded
):
    decomposition = DECOMPOSITIONS[name](num_subnets, partition)
    shapes, labels = shapes_and_labels(decomposition)
    check_law_6(
        decomposition,
        stored_partition(decomposition, labels, shapes, all_home_sharded),
        num_devices,
    )
