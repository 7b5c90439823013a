"""How a run ends."""

import dataclasses
from typing import Any

import jax

from ist_jax.core.types import Params
from ist_jax.methods import Method, State
from ist_jax.training.loggers import Row


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a run ends with.

    Attributes:
      method: of the last phase.
      state: of the method.
      summary: as in summary.json.
      history: the row of every round.
    """

    method: Method
    state: State
    summary: dict[str, Any]
    history: list[Row]

    def __repr__(self) -> str:
        return f"Results(rounds={self.summary['rounds']}, last={self.summary['last']})"

    @property
    def params(self) -> Params:
        """Parameters of the full model, in original order, gathered here for the first time."""
        return jax.jit(self.method.params)(self.state)


class Stopped(RuntimeError):
    """The run was asked to stop, and has saved."""
