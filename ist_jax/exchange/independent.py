"""No exchange at all: S subnetworks that never meet, as in an ensemble."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ist_jax.core.partition import Partition
from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import extract_all, merge
from ist_jax.core.types import Array, Indices, Key, Params
from ist_jax.exchange.base import Exchange


class Separate(NamedTuple):
    """`whole` keeps what no subnetwork holds; `own_S` are the subnetworks."""

    whole: Params
    own_S: Params


def separate(labels: Any, shapes: Any, partition: Partition, mesh: Mesh | None = None) -> Exchange:
    """Every subnetwork keeps its own parameters; they are taken from one initialisation.

    Needs a partition that never changes ('fixed'). On a mesh the subnetworks lie along its axis.

    Raises:
      ValueError: the partition is another.
    """
    del shapes
    if partition.sizes and partition.name != "fixed":
        raise ValueError(
            f"subnetworks that never meet keep their units: partition is 'fixed', not {partition.name!r}"
        )

    def place(own_S: Params) -> Params:
        if mesh is None:
            return own_S
        return jax.lax.with_sharding_constraint(own_S, NamedSharding(mesh, PartitionSpec(AXIS)))

    def init(params: Params) -> Separate:
        return Separate(
            params, place(extract_all(params, labels, partition.first(), partition.num_subnets))
        )

    def push(
        store: Separate,
        pulled_S: Params,
        trained_S: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Separate:
        def keep(old_S: Array, new_S: Array) -> Array:
            return jnp.where(weight_S.reshape((-1,) + (1,) * (old_S.ndim - 1)), new_S, old_S)

        return Separate(store.whole, place(jax.tree.map(keep, store.own_S, trained_S)))

    params = lambda store, indices: merge(store.whole, store.own_S, labels, indices)
    return Exchange(
        init=init,
        move=lambda store, indices, next_indices, key: store,
        pull=lambda store, indices: store.own_S,
        push=push,
        params=params,
        lying=params,
        synchronises=False,
    )
