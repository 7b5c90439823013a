"""The interface of an exchange, which sends units between stored parameters and subnetworks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ist_jax.core.types import Array, Indices, Key, Params

Store = Any  # the stored parameters; only the exchange that made them knows their layout


class Exchange(NamedTuple):
    """Pure functions. `params` may be any pytree with the labels that the exchange was made for.

    A round calls `repartition` with the units of the round, `pull`, local training, and `push`.

    Attributes:
      init: params -> store, for the indices `Partition.first()`.
      repartition: (store, indices, next_indices, key) -> store, for `next_indices`. Holder-sharded
        units go to their next holders. The key is for stochastic rounding.
      pull: (store, indices) -> subparams_S, the subnetworks' parameters.
      push: (store, pulled_S, trained_S, indices, weight_S, key) -> store. `weight_S` is the
        participation of every subnetwork, float32[S], with the meaning that `subnet.merge` defines.
      params: (store, indices) -> params in original order.
      stored_params: (store, indices) -> params in storage order (permuted and padded,
        `storage_order`). The full model computes the same function with them, so evaluation needs
        no communication.
      shardings: tree of the store's shardings on a mesh; None on one device.
    """

    init: Callable[[Params], Store]
    repartition: Callable[[Store, Indices, Indices, Key], Store]
    pull: Callable[[Store, Indices], Params]
    push: Callable[[Store, Params, Params, Indices, Array, Key], Store]
    params: Callable[[Store, Indices], Params]
    stored_params: Callable[[Store, Indices], Params]
    shardings: Any = None
