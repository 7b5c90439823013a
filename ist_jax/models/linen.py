"""Flax Linen modules as models."""

import contextlib
import dataclasses
import functools
import operator
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from ist_jax.core.errors import ModelError, first_line
from ist_jax.core.keys import named_key
from ist_jax.core.model import Model, Stats
from ist_jax.core.types import Array, Key, Params
from ist_jax.models.losses import LOSSES
from ist_jax.models.norm import STATS


@contextlib.contextmanager
def _explain_rng_errors() -> Iterator[None]:
    """Turns Flax's errors about random streams into one that says what to write.

    Raises:
      ModelError: a module draws from a random stream that it is not given, or does not say when its
        dropout is off.
    """
    try:
        yield
    except (InvalidRngError, ValueError) as error:
        text = re.sub(r" \(https?://\S+\)", "", first_line(error))
        if not isinstance(error, InvalidRngError) and '"deterministic"' not in text:
            raise
        raise ModelError(
            "a Linen module gets the random stream 'dropout' in training, and none in evaluation "
            f"({text}): write nn.Dropout(rate, deterministic=not self.has_rng('dropout')); for "
            "other streams, wrap the module with ist_jax.models.linen(module, streams=(...))"
        ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class LinenModel:
    """A Linen module as a `Model`. Its `__call__` takes the inputs of a batch.

    The module has no variables except parameters; use `ist_jax.models.BatchNorm` for norms.

    Attributes:
      module: the module.
      streams: the random streams that it is given in training, such as 'dropout'.
    """

    module: nn.Module
    streams: tuple[str, ...] = ("dropout",)

    def init(self, key: Key, example: Any) -> Params:
        with _explain_rng_errors():
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
        return self.apply_with_loss(params, inputs, key=key, stats=stats)[0]

    def apply_with_loss(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> tuple[Array, Array | None]:
        """The outputs, and the sum of the modules' auxiliary losses (`models.losses`), if any."""
        variables = {"params": params} | ({STATS: stats} if stats else {})
        rngs = None if key is None else self._rngs(key)
        with _explain_rng_errors():
            outputs, updates = self.module.apply(variables, inputs, rngs=rngs, mutable=[LOSSES])
        losses = [leaf.sum() for leaf in jax.tree.leaves(updates)]  # repeated blocks stack theirs
        return cast(Array, outputs), functools.reduce(operator.add, losses) if losses else None

    def _rngs(self, key: Key) -> dict[str, Key]:
        """A key for every stream; the first has `key` itself."""
        first, *others = self.streams
        return {first: key} | {name: named_key(key, name) for name in others}

    def measure(self, params: Params, inputs: Any) -> Stats:
        _, updates = self.module.apply({"params": params}, inputs, mutable=[STATS])
        return dict(updates).get(STATS, {})


def linen(module: nn.Module, streams: Sequence[str] = ("dropout",)) -> Model:
    """The `Model` of a Linen module, which draws from these random streams in training.

    Raises:
      ValueError: no stream is named.
    """
    if not streams:
        raise ValueError("a module has at least one random stream in training: leave streams out")
    return LinenModel(module, tuple(streams))


def as_model(model: Any) -> Model:
    """The `Model` of a Linen module; a `Model` is unchanged. Raises TypeError for anything else."""
    if isinstance(model, nn.Module):
        return LinenModel(model)
    if _is_nnx_module(model):
        raise TypeError(
            f"an NNX module, such as {type(model).__name__}, has its parameters already, but a "
            "model draws them: pass ist_jax.models.nnx(make), where make(rngs) returns the module"
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
