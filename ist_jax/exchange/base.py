"""The interface of an exchange: units between the global parameters at rest and the S subnetworks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ist_jax.core.partition import Partition
from ist_jax.core.types import Array, Indices, Key, Params

Store = Any  # the global parameters at rest; only the exchange that made it knows how they lie


class Exchange(NamedTuple):
    """Pure functions. `params` may be any pytree that the exchange was labelled for.

    A round is: move the store to the next partition, pull, train, push.

    Attributes:
      init: params -> store, for the indices `Partition.first()`.
      move: (store, indices, next_indices, key) -> store, laid for `next_indices`: travelling units go to their
        next holders. The key is for rounding, where the exchange rounds.
      pull: (store, indices) -> subparams_S, the subnetworks of `indices`.
      push: (store, pulled_S, trained_S, indices, weight_S, key) -> store. A lost subnetwork's units keep their
        values.
      params: (store, indices) -> params, in original order.
      lying: (store, indices) -> params as they lie, every group axis in the order and with the padding of
        `resting.storage_order`: the same function, without an exchange.
      shardings: how the store lies on a mesh, a tree of its shape; None on one device.
      synchronises: False if the subnetworks never meet, so that nothing is sent.
    """

    init: Callable[[Params], Store]
    move: Callable[[Store, Indices, Indices, Key], Store]
    pull: Callable[[Store, Indices], Params]
    push: Callable[[Store, Params, Params, Indices, Array, Key], Store]
    params: Callable[[Store, Indices], Params]
    lying: Callable[[Store, Indices], Params]
    shardings: Any = None
    synchronises: bool = True


ExchangeFactory = Callable[
    [Any, Any, Partition], Exchange
]  # (labels, shapes, partition) -> Exchange
