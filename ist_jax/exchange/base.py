"""The interface of an exchange: units between the global parameters at rest and the S subnetworks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ist_jax.partition import Partition
from ist_jax.types import Array, Indices, Params

Store = Any  # the global parameters at rest; only the exchange that made it knows how they lie


class Exchange(NamedTuple):
    """Four pure functions. `params` may be any pytree that the exchange was labelled for.

    Attributes:
      init: params -> store.
      pull: (store, indices, next_indices) -> subparams_S, the subnetworks of `next_indices`.
      push: (store, subparams_S, indices, alive_S) -> store. A lost subnetwork's units keep their values.
      params: (store, indices) -> params, in original order.
      shardings: how the store lies on a mesh, a tree of its shape; None on one device.
      synchronises: False if the subnetworks never meet, so that nothing is sent.
    """

    init: Callable[[Params], Store]
    pull: Callable[[Store, Indices, Indices], Params]
    push: Callable[[Store, Params, Indices, Array], Store]
    params: Callable[[Store, Indices], Params]
    shardings: Any = None
    synchronises: bool = True


ExchangeFactory = Callable[[Any, Any, Partition], Exchange]  # (labels, shapes, partition) -> Exchange
