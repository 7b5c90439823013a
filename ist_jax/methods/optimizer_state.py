"""Optimizer state whose parameters move between subnetworks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.subnet import Label, is_label
from ist_jax.core.types import Array

_INJECTED = optax.InjectStatefulHyperparamsState
_COUNTING = (optax.ScaleByScheduleState, optax.InjectHyperparamsState, _INJECTED)


def at_step(opt_state: Any, step: Array | int) -> Any:
    """`opt_state` with the step counts of all learning-rate schedules set to `step`.

    Adam's count for bias correction stays, since it counts the updates of the moments.
    """
    is_counting = lambda node: isinstance(node, _COUNTING)

    def set_count(node: Any) -> Any:
        if not is_counting(node):
            return node
        if isinstance(node, _INJECTED):  # the state of its schedules has only counts
            schedules = node.hyperparams_states
            as_count = lambda count: jnp.asarray(step, count.dtype)
            node = node._replace(hyperparams_states=jax.tree.map(as_count, schedules))
        return node._replace(count=jnp.asarray(step, node.count.dtype))

    return jax.tree.map(set_count, opt_state, is_leaf=is_counting)


def _parameter_of_leaves(tx: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """A tree like `state`: for each leaf, the number of its parameter, or -1 without one."""
    flat, treedef = jax.tree.flatten(params)
    return optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, number: number,
        state,
        jax.tree.unflatten(treedef, range(len(flat))),
        transform_non_params=lambda leaf: -1,
    )


def state_labels(tx: optax.GradientTransformation, labels: Any, params: Any) -> Any:
    """Labels of the optimizer state over `params`.

    Leaves that belong to a parameter move with its units. All others (step counts) are equal in
    all subnetworks, and are not averaged.

    Raises:
      ValueError: a leaf belongs to a parameter but has another shape (factored optimizers).
    """
    flat_labels, flat_params = jax.tree.leaves(labels, is_leaf=is_label), jax.tree.leaves(params)
    state = jax.eval_shape(tx.init, params)

    def label(leaf: Any, number: int) -> Label:
        if number < 0:
            return Label((None,) * len(leaf.shape), averaged=False)
        if leaf.shape != flat_params[number].shape:
            raise ValueError(
                "opt_state='carry' moves state that is shaped like its parameter; got "
                f"{leaf.shape} for a parameter of shape {flat_params[number].shape}: "
                "use opt_state='reset' or an optimizer that works per entry"
            )
        return flat_labels[number]

    return jax.tree.map(label, state, _parameter_of_leaves(tx, state, params))
