"""What a layer of a Flax model reads."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ist_jax.core.types import Array


def layer_input(call: Callable[[], Any], layer: str) -> Array:
    """The first argument of the layer named `layer` while `call()` applies a Flax model.

    Raises:
      ValueError: no layer of that name is called.
    """
    read: list[Array] = []

    def note(
        method: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if context.module.name == layer and context.method_name == "__call__":
            read.append(args[0])
        return method(*args, **options)

    with nn.intercept_methods(note):
        call()
    if not read:
        raise ValueError(f"no layer of the model is named {layer!r}: take the name of one")
    return read[0]
