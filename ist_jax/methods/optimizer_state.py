"""What happens to optimizer state when parameters move between subnetworks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.subnet import Label, is_label
from ist_jax.core.types import Array

_INJECTED = optax.InjectStatefulHyperparamsState
_COUNTING = (optax.ScaleByScheduleState, optax.InjectHyperparamsState, _INJECTED)


def at_step(opt_state: Any, step: Array) -> Any:
    """`opt_state` with the step count of its learning-rate schedule set to `step`.

    Adam's bias-correction count is left alone: it counts the updates of the moments.
    """
    counts = lambda node: isinstance(node, _COUNTING)

    def put(node: Any) -> Any:
        if not counts(node):
            return node
        if isinstance(
            node, _INJECTED
        ):  # its schedules count for themselves, and nothing else is in these states
            node = node._replace(
                hyperparams_states=jax.tree.map(
                    lambda count: step.astype(count.dtype), node.hyperparams_states
                )
            )
        return node._replace(count=jnp.asarray(step, node.count.dtype))

    return jax.tree.map(put, opt_state, is_leaf=counts)


def state_labels(tx: optax.GradientTransformation, labels: Any, params: Any) -> Any:
    """Labels of the optimizer's state over `params`: leaves shaped like parameters move with their units.

    All other leaves (step counts) are equal on all subnetworks and are not averaged.

    Raises:
      ValueError: a state leaf belongs to a parameter and has another shape (factored optimizers).
    """
    flat_labels = jax.tree.leaves(labels, is_leaf=is_label)
    flat_params, treedef = jax.tree.flatten(params)
    state = jax.eval_shape(tx.init, params)
    owner = optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, i: i,
        state,
        jax.tree.unflatten(treedef, range(len(flat_params))),
        transform_non_params=lambda leaf: -1,
    )

    def label(leaf: Any, i: int) -> Label:
        if i < 0:
            return Label((None,) * len(leaf.shape), averaged=False)
        if leaf.shape != flat_params[i].shape:
            raise ValueError(
                f"opt_state='carry' moves state that is shaped like its parameter; got {leaf.shape} for a "
                f"parameter of shape {flat_params[i].shape}: use opt_state='reset' or an optimizer per entry"
            )
        return flat_labels[i]

    return jax.tree.map(label, state, owner)
