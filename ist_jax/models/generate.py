"""Sequences drawn from a Transformer, one token after another."""

import functools
from typing import cast

import jax
import jax.numpy as jnp

from ist_jax.core.types import Array, Key, Params
from ist_jax.models.transformer import Transformer


@functools.partial(jax.jit, static_argnames=("model", "steps", "temperature"))
def generate(
    model: Transformer,
    params: Params,
    prompt_BxL: Array,
    steps: int,
    key: Key,
    *,
    temperature: float = 1.0,
) -> Array:
    """The prompts and `steps` further tokens, int32[B, L + steps].

    Every step computes the logits of the last `model.context` tokens again; nothing is cached.

    Args:
      model: the network.
      params: its parameters.
      prompt_BxL: int[B, L], the first tokens, at least one.
      steps: number of tokens to draw.
      key: PRNG key.
      temperature: the logits are divided by it. 0: the most likely token is taken.
    """
    given = prompt_BxL.shape[1]
    window = min(given + steps, model.context)
    token_BxL = jnp.pad(jnp.asarray(prompt_BxL, jnp.int32), ((0, 0), (0, steps)))

    def step(token_BxL: Array, place: Array) -> tuple[Array, None]:
        start = jnp.maximum(place - window, 0)
        seen_BxL = jax.lax.dynamic_slice_in_dim(token_BxL, start, window, axis=1)
        logits_BxLxV = cast(Array, model.apply({"params": params}, seen_BxL))
        next_B = _drawn(
            logits_BxLxV[:, place - 1 - start], jax.random.fold_in(key, place), temperature
        )
        return token_BxL.at[:, place].set(next_B), None

    return jax.lax.scan(step, token_BxL, jnp.arange(given, given + steps))[0]


def _drawn(logits_BxV: Array, key: Key, temperature: float) -> Array:
    if temperature == 0:
        return logits_BxV.argmax(axis=-1)
    return jax.random.categorical(key, logits_BxV / temperature)
