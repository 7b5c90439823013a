"""Laws 1 and 2 over random rules, sizes and numbers of subnetworks."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ist_jax.core.partition import EQUAL_BLOCKS, partition
from ist_jax.core.subnet import extract_all, label_axes, merge

GROUPS = ("a", "b", "c")


@st.composite
def problems(draw):
    num_subnets = draw(st.integers(1, 5))
    sizes = {
        group: draw(st.integers(num_subnets, 12)) for group in GROUPS[: draw(st.integers(1, 3))]
    }
    rules, shapes = [], {}
    for i, group in enumerate(sizes):  # every group labels some leaf
        axes = draw(
            st.permutations([group, *draw(st.lists(st.sampled_from([None, *sizes]), max_size=2))])
        )
        axes = [
            axis if axis is None or axis not in axes[:k] else None for k, axis in enumerate(axes)
        ]
        rules.append((f"leaf_{i}", tuple(axes)))
        shapes[f"leaf_{i}"] = tuple(
            sizes[axis] if axis else draw(st.integers(1, 3)) for axis in axes
        )
    rules.append(("shared", None))
    shapes["shared"] = (2,)
    name = draw(st.sampled_from(["balanced", "uniform", "blocks", "rolling"]))
    min_units = draw(st.integers(0, min(sizes.values()))) if name in EQUAL_BLOCKS else 0
    return (
        rules,
        sizes,
        shapes,
        partition(name, sizes, num_subnets, min_units=min_units),
        draw(st.integers(0, 1000)),
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(problems())
def test_merge_follows_its_definition_entry_by_entry(problem):
    rules, sizes, shapes, parts, seed = problem
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    labels = label_axes(params, rules, sizes)

    @jax.jit
    def extracted(params, key):
        indices = parts.sample(key, parts.first())
        return indices, extract_all(params, labels, indices, parts.num_subnets)

    @functools.partial(jax.jit, static_argnames="disjoint")
    def merge_all(params, sub_S, indices, weight_S, disjoint=False):
        return merge(params, sub_S, labels, indices, weight_S, disjoint=disjoint)

    indices, sub_S = jax.device_get(extracted(params, jax.random.key(seed)))
    jax.tree.map(
        lambda leaf: leaf.__iadd__(rng.normal(size=leaf.shape).astype(np.float32)),
        sub_S := jax.tree.map(np.array, sub_S),
    )
    # 0.5 multiplies without rounding, so that both ways of merging give the same bits
    weight_S = rng.choice([0.0, 0.5, 1.0], parts.num_subnets, p=[0.2, 0.2, 0.6])
    weight_S = weight_S.astype(np.float32)
    merged = jax.device_get(merge_all(params, sub_S, indices, weight_S))
    for name, leaf in params.items():
        expected = by_definition(leaf, sub_S[name], labels[name], indices, weight_S, sizes)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    if parts.disjoint:
        fast = jax.device_get(merge_all(params, sub_S, indices, weight_S, disjoint=True))
        jax.tree.map(
            np.testing.assert_array_equal,
            {k: v for k, v in fast.items() if k != "shared"},
            {k: v for k, v in merged.items() if k != "shared"},
        )


def by_definition(leaf, sub_S, label, indices, weight_S, sizes):
    """The mean of `old + weight * (value - old)` over holders that take part, or the old value."""
    total, count = np.zeros(leaf.shape), np.zeros(leaf.shape)
    for s in np.flatnonzero(weight_S > 0):
        for position in np.ndindex(sub_S[s].shape):
            entry, padding = list(position), False
            for axis, group in label.groups:
                entry[axis] = indices[group][s][position[axis]]
                padding |= entry[axis] >= sizes[group]
            if not padding:
                old = leaf[tuple(entry)]
                total[tuple(entry)] += old + weight_S[s] * (sub_S[s][position] - old)
                count[tuple(entry)] += 1
    return np.where(count > 0, total / np.maximum(count, 1), leaf)
