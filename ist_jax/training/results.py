"""What a run returns or raises at its end."""

import dataclasses
from typing import Any

import jax

from ist_jax.core.types import Params
from ist_jax.methods import Method, State
from ist_jax.training.loggers import Row


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a finished run returns.

    Attributes:
      method: of the last phase.
      state: of the method, at the end.
      summary: the content of summary.json.
      history: the rows of all rounds.
    """

    method: Method
    state: State
    summary: dict[str, Any]
    history: list[Row]

    def __repr__(self) -> str:
        return f"Results(rounds={self.summary['rounds']}, last={self.summary['last']})"

    @property
    def params(self) -> Params:
        """The full model's parameters, in original order. Every call gathers them."""
        return jax.jit(self.method.params)(self.state)


class Stopped(RuntimeError):
    """The run was asked to stop, and has saved its state."""
