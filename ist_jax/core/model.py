"""The protocol `Model`: pure functions of parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from ist_jax.core.types import Array, Key, Params

Stats = Mapping[str, Any]  # normalisation statistics, a pytree; {} for a model without them


class Model(Protocol):
    """A network. The arguments of `apply` choose its mode; there is no training flag."""

    def init(self, key: Key, example: Any) -> Params:
        """Fresh parameters.

        Args:
          key: PRNG key.
          example: the inputs of one example, with a leading batch axis.

        Raises:
          ValueError: the model has variables other than parameters.
        """
        ...

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        """The outputs for a batch of inputs.

        Args:
          params: as `init` returns them.
          inputs: the inputs of a batch.
          key: for dropout and other noise. Without a key they are off.
          stats: normalisation statistics; None: the statistics of this batch.
        """
        ...

    def measure(self, params: Params, inputs: Any) -> Stats:
        """The normalisation statistics of a batch of inputs, measured in one pass."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A model in a local step, which collects its auxiliary losses, such as load balancing.

    A model with auxiliary losses has a method `apply_with_loss`. It takes the arguments of `apply`
    and returns (outputs, loss), where the loss is a scalar or None.

    Attributes:
      model: the model.
      losses: one for every call of `apply`; they are added to the task's loss.
    """

    model: Model
    losses: list[Array] = dataclasses.field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the model, which a user's task may read."""
        return getattr(object.__getattribute__(self, "model"), name)

    def init(self, key: Key, example: Any) -> Params:
        return self.model.init(key, example)

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        apply_with_loss = getattr(self.model, "apply_with_loss", None)
        if apply_with_loss is None:
            return self.model.apply(params, inputs, key=key, stats=stats)
        outputs, loss = apply_with_loss(params, inputs, key=key, stats=stats)
        if loss is not None:
            self.losses.append(loss)
        return outputs

    def measure(self, params: Params, inputs: Any) -> Stats:
        return self.model.measure(params, inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated:
    """A model with fixed normalisation statistics: each prediction depends on its example alone.

    Attributes:
      model: the model.
      stats: what `model.measure` returned; None: each batch is normalised with its own statistics.
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
