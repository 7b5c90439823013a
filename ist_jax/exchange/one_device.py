"""One device holds the global parameters as they are: pull is `extract`, push is `merge`."""

from typing import Any

from ist_jax.exchange.base import Exchange
from ist_jax.partition import Partition
from ist_jax.subnet import extract_all, merge


def one_device(labels: Any, shapes: Any, partition: Partition) -> Exchange:
    """The store is the parameter pytree itself (the papers' centralised server)."""
    del shapes
    return Exchange(
        init=lambda params: params,
        pull=lambda store, indices, next_indices: extract_all(store, labels, next_indices, partition.num_subnets),
        push=lambda store, subparams_S, indices, alive_S: merge(
            store, subparams_S, labels, indices, alive_S, disjoint=partition.disjoint
        ),
        params=lambda store, indices: store,
    )
