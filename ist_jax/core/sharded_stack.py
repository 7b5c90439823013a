"""Parameters of repeated blocks, sharded over the devices of a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ist_jax.core.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShardedStack:
    """A parameter of repeated blocks: every device of a mesh stores an equal share of the blocks.

    Attributes:
      stack: the values of all blocks along a leading axis, in any order, possibly with padding.
      place_N: int32[N], the position of each block in `stack`.
      mesh: a mesh of one axis, over which the leading axis of `stack` is sharded.
    """

    stack: Array
    place_N: Array
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def block(self, number: Array) -> Array:
        """The value of one block on every device: its holder's value plus zeros of all others."""
        axis = self.mesh.axis_names[0]

        def value_here(share: Array, place: Array) -> Array:
            local = place - jax.lax.axis_index(axis) * share.shape[0]
            holds = (local >= 0) & (local < share.shape[0])
            value = jax.lax.dynamic_index_in_dim(
                share, jnp.clip(local, 0, share.shape[0] - 1), keepdims=False
            )
            return jax.lax.psum(jnp.where(holds, value, 0), axis)

        sharded, replicated = PartitionSpec(axis), PartitionSpec()
        fetch = jax.shard_map(
            value_here, mesh=self.mesh, in_specs=(sharded, replicated), out_specs=replicated
        )
        return fetch(self.stack, self.place_N[number])
