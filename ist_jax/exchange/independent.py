"""No exchange: independent subnetworks, as in an ensemble."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ist_jax.core.partition import Partition
from ist_jax.core.placement import AXIS
from ist_jax.core.subnet import blend, extract_all, merge, per_subnet
from ist_jax.core.types import Array, Indices, Key, Params
from ist_jax.exchange.base import Exchange


class Independent(NamedTuple):
    """The store of an exchange that sends nothing.

    Attributes:
      full: the initial full parameters, for entries that no subnetwork holds.
      subnets_S: the subnetworks' parameters, stacked along a leading axis S.
    """

    full: Params
    subnets_S: Params


@dataclasses.dataclass(frozen=True)
class _NoExchange:
    """The functions of the `Exchange`."""

    labels: Any
    partition: Partition
    mesh: Mesh | None

    def _place(self, subnets_S: Params) -> Params:
        if self.mesh is None:
            return subnets_S
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.lax.with_sharding_constraint(subnets_S, sharding)

    def init(self, params: Params) -> Independent:
        indices_S, num_subnets = self.partition.first(), self.partition.num_subnets
        subnets_S = extract_all(params, self.labels, indices_S, num_subnets)
        return Independent(params, self._place(subnets_S))

    def repartition(
        self, store: Independent, indices: Indices, next_indices: Indices, key: Key
    ) -> Independent:
        del indices, next_indices, key
        return store

    def pull(self, store: Independent, indices: Indices) -> Params:
        del indices
        return store.subnets_S

    def push(
        self,
        store: Independent,
        pulled_S: Params,
        trained_S: Params,
        indices: Indices,
        weight_S: Array,
        key: Key,
    ) -> Independent:
        del pulled_S, indices, key

        def blend_leaf(old_S: Array, new_S: Array) -> Array:
            return blend(old_S, new_S, per_subnet(weight_S, old_S))

        subnets_S = jax.tree.map(blend_leaf, store.subnets_S, trained_S)
        return Independent(store.full, self._place(subnets_S))

    def params(self, store: Independent, indices: Indices) -> Params:
        return merge(store.full, store.subnets_S, self.labels, indices)


def independent(labels: Any, partition: Partition, mesh: Mesh | None = None) -> Exchange:
    """Every subnetwork keeps its parameters. All start from one initialisation.

    Args:
      labels: labels of the parameters.
      partition: 'fixed', or a partition without groups.
      mesh: the mesh over which subnetworks are sharded; None for one device.

    Raises:
      ValueError: the partition changes between rounds.
    """
    if partition.sizes and partition.name != "fixed":
        raise ValueError(
            f"independent subnetworks keep their units: use partition='fixed', not "
            f"{partition.name!r}"
        )
    local = _NoExchange(labels, partition, mesh)
    functions = (local.init, local.repartition, local.pull, local.push)
    return Exchange(*functions, params=local.params, stored_params=local.params)
