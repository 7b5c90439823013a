"""The core: subnetworks as gathers along named axes of a parameter pytree.

Every axis of every leaf belongs to a *group* of exchangeable units or to none. A partition says which
units each subnetwork holds; a subnetwork is the gather of those units (`extract`), synchronisation
writes them back (`merge`). This is the mechanism of IST (Yuan et al., VLDB 2022, section 3), GIST
(Wolfe et al., 2023, Algorithm 1) and ResIST (Dun et al., UAI 2022, section 3) alike. These are
the reference semantics; `ist_jax.exchange` moves the same units between devices.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ist_jax.core.trees import map_with_names, match
from ist_jax.core.types import Array, Axes, Indices, Params, Rules


class Label(NamedTuple):
    """What an exchange does with one leaf.

    Attributes:
      axes: the group of every axis, None where an axis has no group.
      averaged: whether a leaf without groups is averaged over the subnetworks. If not, all subnetworks
        hold equal copies, lost ones too (step counts of an optimizer), and the first one's is taken, dtype kept.
    """

    axes: Axes
    averaged: bool = True

    @property
    def groups(self) -> tuple[tuple[int, str], ...]:
        """(axis, group) of every axis that has a group."""
        return tuple((axis, group) for axis, group in enumerate(self.axes) if group is not None)


def is_label(leaf: Any) -> bool:
    """For `is_leaf=` of tree functions over labels."""
    return isinstance(leaf, Label)


def _label(name: str, leaf: Any, rules: Rules, sizes: Mapping[str, int]) -> Label:
    axes = match(rules, name)
    axes = (None,) * len(leaf.shape) if axes is None else tuple(axes)
    if len(axes) != len(leaf.shape):
        raise ValueError(
            f"a rule names every axis: {name!r} has shape {leaf.shape}, its rule {axes}"
        )
    named = [group for group in axes if group is not None]
    if len(set(named)) < len(named):
        raise ValueError(
            f"a group may label one axis of a leaf: {name!r} has {axes}; give the axes groups of their own"
        )
    for axis, (group, length) in enumerate(zip(axes, leaf.shape)):
        if group is not None and group not in sizes:
            raise ValueError(
                f"rule for {name!r} names group {group!r}, which has no size; groups: {sorted(sizes)}"
            )
        if group is not None and sizes[group] != length:
            raise ValueError(
                f"a labelled axis has the length of its group: axis {axis} of {name!r} has length {length}, "
                f"group {group!r} has {sizes[group]} units; keep composite axes apart"
            )
    return Label(axes)


def label_axes(params: Params, rules: Rules, sizes: Mapping[str, int]) -> Any:
    """A tree of `Label`, shaped like `params` (arrays or ShapeDtypeStructs).

    Args:
      params: pytree of parameters.
      rules: (path regex, group per axis); the first match wins, None means shared.
      sizes: number of units of every group.

    Raises:
      ValueError: a leaf without a rule, an axis whose length is not its group's size, a group without
        a size or without a leaf. The message names the leaf, the axis and both sizes.
    """
    labels = map_with_names(lambda name, leaf: _label(name, leaf, rules, sizes), params)
    used = {
        group for label in jax.tree.leaves(labels, is_leaf=is_label) for _, group in label.groups
    }
    if unused := sorted(set(sizes) - used):
        raise ValueError(
            f"every group labels an axis of some leaf; none has {unused}: check the rules"
        )
    return labels


def take(leaf: Array, index: Array, axis: int) -> Array:
    """Units `index` along `axis`; zeros at padding (an index past the end)."""
    return jnp.take(leaf, index, axis=axis, mode="fill", fill_value=0)


def _put(leaf: Array, index: Array, axis: int, values: Array) -> Array:
    """`leaf` with `values` at the units `index` of `axis`; padding is dropped."""
    if axis == 0:
        return jnp.asarray(leaf).at[index].set(values, mode="drop")
    # a scatter of columns goes entry by entry (on a CPU 7 times slower than this gather, with its inverse)
    slot_M = jnp.arange(index.size, dtype=jnp.int32)
    slot_N = jnp.full(leaf.shape[axis], index.size, jnp.int32).at[index].set(slot_M, mode="drop")
    held = jnp.expand_dims(slot_N < index.size, [a for a in range(leaf.ndim) if a != axis])
    return jnp.where(held, take(values, slot_N, axis).astype(leaf.dtype), leaf)


def _extract_one(leaf: Array, label: Label, indices: Indices) -> Array:
    for axis, group in label.groups:
        leaf = take(leaf, indices[group], axis)
    return leaf


def extract(params: Params, labels: Any, indices: Indices) -> Params:
    """One subnetwork's parameters. `jax.vmap` over `indices` makes all S.

    Args:
      params: pytree of parameters.
      labels: their labels, from `label_axes`.
      indices: group -> int32[M], the units held; a group's size (or more) is padding and gives zeros.
    """
    return jax.tree.map(
        lambda label, leaf: _extract_one(leaf, label, indices), labels, params, is_leaf=is_label
    )


def extract_all(params: Params, labels: Any, indices: Indices, num_subnets: int) -> Params:
    """All subnetworks' parameters, stacked: every leaf has a leading axis S."""
    return jax.vmap(lambda own: extract(params, labels, own), axis_size=num_subnets)(dict(indices))


def _write(
    leaf: Array, value: Array, groups: tuple[tuple[int, str], ...], indices: Indices
) -> Array:
    """`leaf` with one subnetwork's `value` written at its units, one axis inside the other."""
    (axis, group), *inner = groups
    if inner:  # only the rows that this subnetwork holds are touched
        value = _write(take(leaf, indices[group], axis), value, tuple(inner), indices)
    return _put(leaf, indices[group], axis, value)


def _mean_shared(leaf: Array, value_S: Array, weight_S: Array) -> Array:
    weight_S = weight_S.astype(leaf.dtype).reshape((-1,) + (1,) * leaf.ndim)
    # where, not a product: a lost subnetwork may hold nan
    total = jnp.where(weight_S > 0, value_S, 0).sum(axis=0)
    return jnp.where(weight_S.sum() > 0, total / jnp.maximum(weight_S.sum(), 1), leaf).astype(
        leaf.dtype
    )


def _scatter_disjoint(leaf: Array, value_S: Array, label: Label, indices_S: Indices) -> Array:
    if len(label.groups) == 1:  # all subnetworks in one scatter
        ((axis, group),) = label.groups
        value = jnp.moveaxis(value_S, 0, axis)
        value = value.reshape(*value.shape[:axis], -1, *value.shape[axis + 2 :])
        return _put(leaf, indices_S[group].reshape(-1), axis, value)
    own = {group: indices_S[group] for _, group in label.groups}
    write = lambda total, item: (_write(total, item[0], label.groups, item[1]), None)
    return jax.lax.scan(write, leaf, (value_S, own))[0]


def _scatter_mean(leaf: Array, value_S: Array, label: Label, indices_S: Indices) -> Array:
    own = {group: indices_S[group] for _, group in label.groups}

    def add(
        carry: tuple[Array, Array], item: tuple[Array, Indices]
    ) -> tuple[tuple[Array, Array], None]:
        total, count = carry
        value, indices = item
        # -0.0 is the neutral element of addition to the last bit: -0.0 + x is x, for x = -0.0 too
        total = total + _write(jnp.full_like(leaf, -0.0), value, label.groups, indices)
        count = count + _write(jnp.zeros_like(leaf), jnp.ones_like(value), label.groups, indices)
        return (total, count), None

    (total, count), _ = jax.lax.scan(
        add, (jnp.full_like(leaf, -0.0), jnp.zeros_like(leaf)), (value_S, own)
    )
    return jnp.where(count > 0, total / jnp.maximum(count, 1), leaf)


def merge(
    params: Params,
    subparams_S: Params,
    labels: Any,
    indices_S: Indices,
    weight_S: Array | None = None,
    *,
    disjoint: bool = False,
) -> Params:
    """The global parameters after a round.

    Entries with one holder are copied bit for bit, entries with several are their mean, entries that
    nobody held keep their bits, leaves without a group are averaged over the subnetworks.

    Args:
      params: the global parameters before the round.
      subparams_S: the subnetworks', every leaf with a leading axis S.
      labels: labels of `params`.
      indices_S: group -> int32[S, M].
      weight_S: bool[S]; what a lost subnetwork (False) trained is left out. None: all are alive.
      disjoint: promises that no unit has two holders, which saves counting them.
    """
    num_subnets = jax.tree.leaves(subparams_S)[0].shape[0]
    chex.assert_tree_shape_prefix(subparams_S, (num_subnets,))
    weight_S = jnp.ones(num_subnets, bool) if weight_S is None else weight_S
    past_the_end = jnp.iinfo(jnp.int32).max
    held_S = {
        group: jnp.where(weight_S[:, None], index, past_the_end)
        for group, index in indices_S.items()
    }

    def merge_leaf(label: Label, leaf: Array, value_S: Array) -> Array:
        if not label.groups:
            return _mean_shared(leaf, value_S, weight_S) if label.averaged else value_S[0]
        return (_scatter_disjoint if disjoint else _scatter_mean)(leaf, value_S, label, held_S)

    return jax.tree.map(merge_leaf, labels, params, subparams_S, is_leaf=is_label)


def map_labels(f: Any, labels: Any, *trees: Any) -> Any:
    """`jax.tree.map` over a tree of labels and trees of the same shape."""
    return jax.tree.map(f, labels, *trees, is_leaf=is_label)
