"""What a method keeps between rounds, and what it plans and passes on."""

from typing import Any, NamedTuple

from ist_jax.core.types import Array, Indices, Params


class Start(NamedTuple):
    """What one phase of a run passes to the next, or another run to this one, in original order.

    Attributes:
      params: the full model's parameters.
      opt_state: the optimizer's state over them; None where it is not kept between rounds.
      step: int32[] or int, local steps so far; learning-rate schedules run on it.
    """

    params: Params
    opt_state: Any = None
    step: Any = 0


class State(NamedTuple):
    """What a method keeps between rounds.

    Attributes:
      store: the global parameters as they are stored.
      opt_state: optimizer state that is not part of the store, or ().
      outer_state: state of the outer optimizer, or ().
      indices: the current partition.
      step: int32[], local steps so far, over all phases.
      position: int32[], examples that each worker has drawn in this phase.
    """

    store: Any
    opt_state: Any
    outer_state: Any
    indices: Any
    step: Array
    position: Array


class Plan(NamedTuple):
    """What happens to units in one round.

    Attributes:
      indices: group -> int32[S, M], the units that each subnetwork trains.
      synchronised: the groups whose units are written back to the global parameters after the
        round. None among them stands for the leaves without a group.
    """

    indices: Indices
    synchronised: frozenset[str | None]


class Worker(NamedTuple):
    """One worker of a state.

    Attributes:
      params: of its model.
      opt_state: its local optimizer's.
      indices: the units that it holds; {} for a worker with the full model.
      number: int32[], which worker it is.
    """

    params: Params
    opt_state: Any
    indices: Any
    number: Array
