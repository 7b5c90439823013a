"""The state of a method, and what phases pass on."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from ist_jax.core.types import Array, Params


class Start(NamedTuple):
    """The start of a phase: the end of the previous phase or of another run, in original order.

    Attributes:
      params: the full model's parameters.
      opt_state: the optimizer's state over them; None if it is not kept between rounds.
      step: int32[] or int, local steps so far, on which learning-rate schedules run.
      round: int32[] or int, rounds so far, on which plans may depend.
    """

    params: Params
    opt_state: Any = None
    step: Any = 0
    round: Any = 0


class State(NamedTuple):
    """The state of a method between rounds.

    Attributes:
      store: the stored parameters, in the layout of the method's exchange.
      opt_state: optimizer state outside the store, or ().
      outer_state: the outer optimizer's state, or ().
      indices: group -> int32[S, M], the units that each subnetwork holds.
      step: int32[], local steps so far in all phases.
      round: int32[], rounds so far in all phases.
      position: int32[], examples that each worker has drawn in this phase.
      copies_S: every worker's copy of the pulled leaves that it keeps between rounds, stacked along
        a leading axis S; None in place of other leaves.
    """

    store: Any
    opt_state: Any
    outer_state: Any
    indices: Any
    step: Array
    round: Array
    position: Array
    copies_S: Any = ()

    @property
    def stored(self) -> Any:
        """Everything but the counters."""
        return self.store, self.opt_state, self.outer_state, self.indices, self.copies_S


def first_counters(start: Start) -> tuple[Array, Array, Array]:
    """`step`, `round` and `position` of the state before the first round of a phase."""
    # copies: a round reuses the memory of its state, and the caller may keep `start`
    copy = lambda count: jnp.array(count, jnp.int32, copy=True)
    return copy(start.step), copy(start.round), copy(0)


class Worker(NamedTuple):
    """One worker at the start of its local steps.

    Attributes:
      params: the parameters of its model.
      opt_state: the state of its local optimizer.
      indices: group -> int32[M], the units that it holds; {} for the full model.
      number: int32[], the worker's number.
    """

    params: Params
    opt_state: Any
    indices: Any
    number: Array
