"""Subnetworks: gathers along named axes of a parameter pytree.

Every axis of every leaf belongs to a *group* of exchangeable units, or to none. A partition says
which units each subnetwork holds. `extract` gathers those units into a subnetwork. `merge`
synchronises: it writes the units back. IST (Yuan et al., VLDB 2022, section 3), GIST
(Wolfe et al., 2023, Algorithm 1) and ResIST (Dun et al., UAI 2022, section 3) share this mechanism.

These functions define what a synchronisation computes. `ist_jax.exchange` computes the same with
the parameters sharded over devices.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ist_jax.core.trees import check_all_match, has_rule, leaf_names, map_with_names, match
from ist_jax.core.types import Array, Axes, Indices, Params, Rules


class Label(NamedTuple):
    """How one leaf is synchronised.

    Attributes:
      axes: the group of every axis; None for an axis without a group. If one group labels two axes,
        as in a recurrent kernel, a subnetwork holds the entries that connect its units.
      averaged: whether a leaf without groups is averaged over the subnetworks. If not, all copies
        are equal, as an optimizer's step counts are, and the first one is taken.
    """

    axes: Axes
    averaged: bool = True

    @property
    def groups(self) -> tuple[tuple[int, str], ...]:
        """(axis, group) of every axis that has a group."""
        return tuple((axis, group) for axis, group in enumerate(self.axes) if group is not None)


def is_label(leaf: Any) -> bool:
    """Whether `leaf` is a `Label`, for the `is_leaf=` of tree functions."""
    return isinstance(leaf, Label)


def _label(name: str, leaf: Any, rules: Rules, sizes: Mapping[str, int]) -> Label:
    axes = match(rules, name)
    axes = (None,) * len(leaf.shape) if axes is None else tuple(axes)
    if len(axes) != len(leaf.shape):
        raise ValueError(
            f"a rule names every axis: {name!r} has shape {leaf.shape}, but its rule is {axes}; "
            "give it one entry per axis"
        )
    for axis, (group, length) in enumerate(zip(axes, leaf.shape)):
        if group is not None and group not in sizes:
            raise ValueError(
                f"the rule for {name!r} names group {group!r}, which has no size: "
                f"give it one, or use one of {sorted(sizes)}"
            )
        if group is not None and sizes[group] != length:
            raise ValueError(
                f"a labelled axis is as long as its group: axis {axis} of {name!r} has length "
                f"{length}, group {group!r} has {sizes[group]} units: name the axes in the order "
                f"of {leaf.shape}, and split composite ones"
            )
    return Label(axes)


def map_labels(f: Callable[..., Any], labels: Any, *trees: Any) -> Any:
    """`jax.tree.map` over a tree of labels and trees of the same structure."""
    return jax.tree.map(f, labels, *trees, is_leaf=is_label)


def label_axes(params: Params, rules: Rules, sizes: Mapping[str, int]) -> Any:
    """A tree of `Label` with the structure of `params` (arrays or ShapeDtypeStructs).

    Args:
      params: pytree of parameters.
      rules: (path regex, group per axis), or (path regex, None) for a shared leaf. The first that
        matches the full name of a leaf, such as 'mlp/hidden/kernel', wins (`re.fullmatch`).
      sizes: group -> number of units.

    Raises:
      ValueError: a leaf has no rule, an axis is not as long as its group, or a group has no size or
        no leaf. The message names the leaf, the axis and both sizes.
    """
    if not all(has_rule(rules, name) for name in leaf_names(params)):
        check_all_match(rules, params)  # the error about a misspelt rule says more
    labels = map_with_names(lambda name, leaf: _label(name, leaf, rules, sizes), params)
    used = {
        group for label in jax.tree.leaves(labels, is_leaf=is_label) for _, group in label.groups
    }
    if unused := sorted(set(sizes) - used):
        check_all_match(rules, params)
        raise ValueError(
            f"every group labels an axis of some leaf; none has {unused}: check the rules"
        )
    return labels


def take(leaf: Array, index: Array, axis: int) -> Array:
    """The units `index` along `axis`; zeros for padding (an index past the end)."""
    return jnp.take(leaf, index, axis=axis, mode="fill", fill_value=0)


def _extract_one(leaf: Array, label: Label, indices: Indices) -> Array:
    for axis, group in label.groups:
        leaf = take(leaf, indices[group], axis)
    return leaf


def extract(params: Params, labels: Any, indices: Indices) -> Params:
    """One subnetwork's parameters.

    Args:
      params: pytree of parameters.
      labels: their labels, from `label_axes`.
      indices: group -> int32[M], the units of the subnetwork. Padding (an index past the end)
        gives zeros.
    """
    return map_labels(lambda label, leaf: _extract_one(leaf, label, indices), labels, params)


def extract_all(params: Params, labels: Any, indices_S: Indices, num_subnets: int) -> Params:
    """The parameters of all S subnetworks, stacked: every leaf has a leading axis S.

    Args:
      params: pytree of parameters.
      labels: their labels.
      indices_S: group -> int32[S, M].
      num_subnets: S, which `indices_S` does not show if there are no groups.
    """
    of_one = functools.partial(extract, params, labels)
    return jax.vmap(of_one, axis_size=num_subnets)(dict(indices_S))


def blend(old: Array, new: Array, weight: Array) -> Array:
    """`old + weight * (new - old)`: exactly `old` at weight 0, exactly `new` at weight 1.

    At weight 0, NaN in `new` has no effect. An integer keeps its old value at any weight below 1.

    Args:
      old: values before the round.
      new: values after it, of the same shape.
      weight: float32, with as many axes as `old`, broadcast against it.
    """
    between = old + weight.astype(old.dtype) * (new - old)
    return jnp.where(weight == 1, new, jnp.where(weight > 0, between, old)).astype(old.dtype)


def per_subnet(weight_S: Array, leaf_S: Array) -> Array:
    """`weight_S` with trailing axes of length 1, so that it has as many axes as `leaf_S`."""
    return weight_S.reshape((-1,) + (1,) * (leaf_S.ndim - 1))


def _put(leaf: Array, index: Array, axis: int, values: Array) -> Array:
    """`leaf` with `values` written to the units `index` of `axis`; padding is dropped."""
    if axis == 0:
        return jnp.asarray(leaf).at[index].set(values, mode="drop")
    # XLA's CPU backend scatters columns entry by entry; a gather by the inverse index is 7 times
    # faster.
    slot_M = jnp.arange(index.size, dtype=jnp.int32)
    slot_N = jnp.full(leaf.shape[axis], index.size, jnp.int32).at[index].set(slot_M, mode="drop")
    held = jnp.expand_dims(slot_N < index.size, [a for a in range(leaf.ndim) if a != axis])
    return jnp.where(held, take(values, slot_N, axis).astype(leaf.dtype), leaf)


def _write(
    leaf: Array, value: Array, groups: tuple[tuple[int, str], ...], indices: Indices
) -> Array:
    """`leaf` with one subnetwork's `value` at its units, axis by axis."""
    (axis, group), *inner = groups
    if inner:  # take the held units of this axis, and write `value` into them along the other axes
        value = _write(take(leaf, indices[group], axis), value, tuple(inner), indices)
    return _put(leaf, indices[group], axis, value)


def _contribution(
    leaf: Array, value: Array, label: Label, indices: Indices, weight: Array
) -> Array:
    """What one subnetwork contributes to the units that it holds."""
    old = _extract_one(leaf, label, indices)
    return blend(old, value, weight.reshape((1,) * old.ndim))


def mean_or_old(total: Array, count: Array, old: Array) -> Array:
    """`total / count`, or `old` where the count is 0. `count` is a scalar or shaped like `old`."""
    count = count.astype(old.dtype)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), old).astype(old.dtype)


def sum_of_contributions(leaf: Array, value_S: Array, weight_S: Array) -> Array:
    """The sum of all contributions to a leaf without groups; weight 0 contributes nothing."""
    weight_S = per_subnet(weight_S, value_S)
    # `where` instead of a product: a failed subnetwork may have NaN
    return jnp.where(weight_S > 0, blend(leaf[None], value_S, weight_S), 0).sum(axis=0)


def _merge_shared(leaf: Array, value_S: Array, weight_S: Array) -> Array:
    return mean_or_old(sum_of_contributions(leaf, value_S, weight_S), (weight_S > 0).sum(), leaf)


def _merge_disjoint(
    leaf: Array, value_S: Array, label: Label, indices_S: Indices, weight_S: Array
) -> Array:
    """A leaf whose entries have at most one holder: contributions are copied."""
    of_label = {group: indices_S[group] for _, group in label.groups}
    if len(label.groups) == 1:  # all subnetworks in one scatter
        ((axis, group),) = label.groups

        def contribution(value: Array, indices: Indices, weight: Array) -> Array:
            return _contribution(leaf, value, label, indices, weight)

        value = jnp.moveaxis(jax.vmap(contribution)(value_S, of_label, weight_S), 0, axis)
        value = value.reshape(*value.shape[:axis], -1, *value.shape[axis + 2 :])
        return _put(leaf, indices_S[group].reshape(-1), axis, value)

    def write(merged: Array, subnet: tuple[Array, Indices, Array]) -> tuple[Array, None]:
        value, indices, weight = subnet
        value = _contribution(merged, value, label, indices, weight)
        return _write(merged, value, label.groups, indices), None

    return jax.lax.scan(write, leaf, (value_S, of_label, weight_S))[0]


def _merge_mean(
    leaf: Array, value_S: Array, label: Label, indices_S: Indices, weight_S: Array
) -> Array:
    """A leaf whose entries may have several holders: the mean of their contributions."""
    of_label = {group: indices_S[group] for _, group in label.groups}
    # -0.0 is the exact neutral element of addition: -0.0 + x is x, also for x = -0.0
    nothing, none = jnp.full_like(leaf, -0.0), jnp.zeros_like(leaf)

    def add(
        sums: tuple[Array, Array], subnet: tuple[Array, Indices, Array]
    ) -> tuple[tuple[Array, Array], None]:
        total, count = sums
        value, indices, weight = subnet
        value = _contribution(leaf, value, label, indices, weight)
        total = total + _write(nothing, value, label.groups, indices)
        count = count + _write(none, jnp.ones_like(value), label.groups, indices)
        return (total, count), None

    (total, count), _ = jax.lax.scan(add, (nothing, none), (value_S, of_label, weight_S))
    return mean_or_old(total, count, leaf)


def merge(
    params: Params,
    subparams_S: Params,
    labels: Any,
    indices_S: Indices,
    weight_S: Array | None = None,
    *,
    disjoint: bool = False,
) -> Params:
    """The full parameters after a synchronisation.

    A holder of weight w > 0 contributes `old + w * (value - old)` to each of its entries. At w = 1
    that is its value, bit for bit. An entry with one contribution becomes that contribution. An
    entry with several becomes their mean, and one with none keeps its bits. A leaf without groups
    becomes the mean of all contributions.

    Args:
      params: the full parameters before the round.
      subparams_S: the subnetworks' parameters; every leaf has a leading axis S.
      labels: labels of `params`.
      indices_S: group -> int32[S, M].
      weight_S: float32[S], the participation of every subnetwork: 1 is full, 0 is failed, and a
        value in between weighs a stale result. None: all are 1.
      disjoint: promises that no unit has two holders, so that holders need not be counted.
    """
    num_subnets = jax.tree.leaves(subparams_S)[0].shape[0]
    chex.assert_tree_shape_prefix(subparams_S, (num_subnets,))
    weight_S = jnp.ones(num_subnets, jnp.float32) if weight_S is None else jnp.asarray(weight_S)
    past_the_end = jnp.iinfo(jnp.int32).max
    held_S = {
        group: jnp.where(weight_S[:, None] > 0, index, past_the_end)
        for group, index in indices_S.items()
    }

    def merge_leaf(label: Label, leaf: Array, value_S: Array) -> Array:
        if label.groups:
            merge_held = _merge_disjoint if disjoint else _merge_mean
            return merge_held(leaf, value_S, label, held_S, weight_S)
        return _merge_shared(leaf, value_S, weight_S) if label.averaged else value_S[0]

    return map_labels(merge_leaf, labels, params, subparams_S)
