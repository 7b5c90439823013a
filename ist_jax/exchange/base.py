"""The interface of an exchange: it moves units between the store and the subnetworks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ist_jax.core.types import Array, Indices, Key, Params

Store = Any  # the stored parameters; only the exchange that made them knows their layout


class Exchange(NamedTuple):
    """Pure functions over a pytree of parameters, or any pytree with the same labels.

    A round is `repartition`, `pull`, local training, `push`.

    Attributes:
      init: params -> store, partitioned by `Partition.first()`.
      repartition: (store, indices, next_indices, key) -> store, partitioned by `next_indices`. It
        sends holder-sharded units to their next holders. The key is for stochastic rounding.
      pull: (store, indices) -> subparams_S, the subnetworks' parameters.
      push: (store, pulled_S, trained_S, indices, weight_S, key) -> store. It merges what the
        subnetworks trained; float32[S] `weight_S` is their participation, as in `subnet.merge`.
      params: (store, indices) -> params in original order.
      stored_params: (store, indices) -> params in storage order (`storage_order`), permuted and
        padded. The full model computes the same function with them, so evaluation sends no units.
      shardings: the shardings of the store's leaves on a mesh; None on one device.
    """

    init: Callable[[Params], Store]
    repartition: Callable[[Store, Indices, Indices, Key], Store]
    pull: Callable[[Store, Indices], Params]
    push: Callable[[Store, Params, Params, Indices, Array, Key], Store]
    params: Callable[[Store, Indices], Params]
    stored_params: Callable[[Store, Indices], Params]
    shardings: Any = None
