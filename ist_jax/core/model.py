"""What a model is to the methods: pure functions of its parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from ist_jax.core.types import Array, Key, Params

Stats = Mapping[str, Any]  # normalisation statistics, a pytree; {} for a model without them


class Model(Protocol):
    """A network. Which of its modes runs depends on what `apply` is given, not on a flag."""

    def init(self, key: Key, example: Any) -> Params:
        """Fresh parameters.

        Args:
          key: of the draws.
          example: inputs of one example, arrays with a leading batch axis.

        Raises:
          ValueError: the model keeps variables other than parameters.
        """
        ...

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        """The outputs for a batch of inputs.

        Args:
          params: as `init` returns them.
          inputs: of a batch.
          key: for dropout and other noise, which are off without it.
          stats: normalisation statistics; without them, those of the batch are used.
        """
        ...

    def measure(self, params: Params, inputs: Any) -> Stats:
        """The normalisation statistics of a batch of inputs, in one pass."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated:
    """A model that always normalises with the same statistics, so that it predicts per example.

    Attributes:
      model: the model.
      stats: what `model.measure` returned; None leaves the batch's own statistics in use.
    """

    model: Model
    stats: Stats | None

    def init(self, key: Key, example: Any) -> Params:
        return self.model.init(key, example)

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        return self.model.apply(
            params, inputs, key=key, stats=self.stats if stats is None else stats
        )

    def measure(self, params: Params, inputs: Any) -> Stats:
        return self.model.measure(params, inputs)
