"""Optimizer state of parameters that move between subnetworks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.subnet import Label, is_label
from ist_jax.core.types import Array

_INJECTED = optax.InjectStatefulHyperparamsState
_COUNTING = (optax.ScaleByScheduleState, optax.InjectHyperparamsState, _INJECTED)


def at_step(opt_state: Any, step: Array) -> Any:
    """`opt_state` with the step counts of its learning-rate schedules set to `step`.

    Adam's count for bias correction is left alone: it counts the updates of the moments.
    """
    counts = lambda node: isinstance(node, _COUNTING)

    def set_count(node: Any) -> Any:
        if not counts(node):
            return node
        if isinstance(node, _INJECTED):  # its schedules keep nothing but counts
            schedules = node.hyperparams_states
            as_count = lambda count: step.astype(count.dtype)
            node = node._replace(hyperparams_states=jax.tree.map(as_count, schedules))
        return node._replace(count=jnp.asarray(step, node.count.dtype))

    return jax.tree.map(set_count, opt_state, is_leaf=counts)


def _parameter_of_leaves(tx: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """A tree like `state`: the number of the parameter that each leaf belongs to, or -1."""
    flat, treedef = jax.tree.flatten(params)
    return optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, number: number,
        state,
        jax.tree.unflatten(treedef, range(len(flat))),
        transform_non_params=lambda leaf: -1,
    )


def state_labels(tx: optax.GradientTransformation, labels: Any, params: Any) -> Any:
    """Labels of the optimizer's state over `params`.

    Leaves that belong to a parameter move with its units. All others (step counts) are equal on
    all subnetworks and are not averaged.

    Raises:
      ValueError: a leaf belongs to a parameter and has another shape (factored optimizers).
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
