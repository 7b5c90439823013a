"""Flax Linen modules as models."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
from flax.errors import InvalidRngError

from ist_jax.core.errors import ModelError, first_line
from ist_jax.core.model import Model, Stats
from ist_jax.core.types import Array, Key, Params
from ist_jax.models.norm import STATS


@dataclasses.dataclass(frozen=True, eq=False)
class LinenModel:
    """A Linen module as a `Model`. Its `__call__` takes the inputs of a batch.

    The module has no variables except parameters; use `ist_jax.models.BatchNorm` for norms. Dropout
    uses the random stream 'dropout'.
    """

    module: nn.Module

    def init(self, key: Key, example: Any) -> Params:
        variables = self.module.init(key, example)
        if others := sorted(set(variables) - {"params", STATS}):
            raise ModelError(
                "a model's only variables are its parameters; "
                f"{type(self.module).__name__} has {others}: "
                "use ist_jax.models.BatchNorm, which keeps no running statistics"
            )
        return variables["params"]

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        variables = {"params": params} | ({STATS: stats} if stats else {})
        rngs = None if key is None else {"dropout": key}
        try:
            return cast(Array, self.module.apply(variables, inputs, rngs=rngs))
        except InvalidRngError as error:
            raise ModelError(
                "a Linen model draws random numbers from the stream 'dropout', and none without a "
                f"key; {type(self.module).__name__} does ({first_line(error)}): turn dropout off "
                "by `deterministic=not self.has_rng('dropout')`"
            ) from error

    def measure(self, params: Params, inputs: Any) -> Stats:
        _, updates = self.module.apply({"params": params}, inputs, mutable=[STATS])
        return dict(updates).get(STATS, {})


def linen(module: nn.Module) -> Model:
    """The `Model` of a Linen module."""
    return LinenModel(module)


def as_model(model: Any) -> Model:
    """The `Model` of a Linen module; a `Model` is unchanged. Raises TypeError for anything else."""
    if isinstance(model, nn.Module):
        return LinenModel(model)
    if _is_nnx_module(model):
        raise TypeError(
            f"an NNX module holds values, and a model draws its own: {type(model).__name__} is "
            "passed as ist_jax.models.nnx(make), where make(rngs) returns the module"
        )
    if all(hasattr(model, name) for name in ("init", "apply", "measure")):
        return model
    raise TypeError(
        "a model is a Linen module, ist_jax.models.nnx(make), or has init, apply and measure, and "
        f"{model!r} is none of them: see ist_jax.core.model.Model"
    )


def _is_nnx_module(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # imported already, if there is a module of it
    return nnx is not None and isinstance(model, nnx.Module)


def inputs_of(model: LinenModel, name: str, params: Params, inputs: Any) -> Array:
    """The input of the submodule `name` when the model is applied."""
    recorded: list[Array] = []

    def record(
        call: Callable[..., Array],
        args: tuple,
        options: dict,
        context: nn.module.InterceptorContext,
    ) -> Array:
        if context.module.name == name and context.method_name == "__call__":
            recorded.append(args[0])
        return call(*args, **options)

    with nn.intercept_methods(record):
        model.apply(params, inputs)
    return recorded[0]
