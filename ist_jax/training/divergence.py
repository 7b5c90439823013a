"""Checks that training has not diverged."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array
from ist_jax.methods import State

REMEDY = "lower the learning rate, or clip gradients"
SUBNETS = "_subnets"  # suffix of a split's name under which subnetworks' metrics are reported


class NonFiniteLossError(RuntimeError):
    """Training diverged: a loss, a metric or a parameter is not finite."""


def check_loss(loss_SxJ: np.ndarray, round: int) -> None:
    """Raises NonFiniteLossError if a loss of `round` is nan or infinite."""
    if np.isfinite(loss_SxJ).all():
        return
    worker, step = np.argwhere(~np.isfinite(loss_SxJ))[0]
    raise NonFiniteLossError(
        f"the loss of subnetwork {worker} became {loss_SxJ[worker, step]} in local step {step + 1} "
        f"of round {round}: {REMEDY}"
    )


def check_state(state: State, round: int) -> None:
    """Raises NonFiniteLossError if parameters are not finite, or an optimizer's state has nan."""
    if not _is_finite(state):
        raise NonFiniteLossError(
            f"{_nonfinite_names(state)} became nan or infinite in round {round}: "
            "lower the learning rate"
        )


def check_metrics(metrics: Mapping[str, Mapping[str, Any]], where: str, remedy: str) -> None:
    """Raises NonFiniteLossError if a metric is nan or infinite.

    Logits may become nan in the last round even though the parameters are finite.

    Args:
      metrics: split -> {name: a value, or those of all subnetworks}.
      where: for the message, such as "in the evaluation after round 3".
      remedy: what to do, for the message.
    """
    for split, values in metrics.items():
        for name, value in values.items():
            wrong = np.flatnonzero(~np.isfinite(np.atleast_1d(value)))
            if wrong.size:
                shown = np.atleast_1d(value)[wrong[0]]
                whose = f" of subnetwork {wrong[0]}" if np.ndim(value) else ""
                raise NonFiniteLossError(
                    f"{split.removesuffix(SUBNETS)} {name}{whose} became {shown} {where}: {remedy}"
                )


@jax.jit
def _is_finite(state: State) -> Array:
    """bool[]. An optimizer's state may be infinite: some optimizers start with infinity."""
    params = jax.tree.leaves((state.store, state.copies_S))
    finite = [jnp.isfinite(leaf).all() for leaf in params]
    optimizers = jax.tree.leaves((state.opt_state, state.outer_state))
    return jnp.array(finite + [~jnp.isnan(leaf).any() for leaf in optimizers]).all()


def _nonfinite_names(state: State) -> str:
    """The names of the leaves that are not finite."""
    names = [
        name
        for tree in (state.store, state.copies_S)
        for name, leaf in zip(leaf_names(tree), jax.tree.leaves(tree))
        if not jnp.isfinite(leaf).all()
    ]
    return " and ".join(names) or "the optimizer's state"
