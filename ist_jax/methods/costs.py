"""The bytes and parameters of a method, by arithmetic (`ist_jax.analysis.costs`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.analysis import costs
from ist_jax.analysis.links import Link
from ist_jax.core.partition import Partition
from ist_jax.core.trees import tree_bytes, tree_size
from ist_jax.methods.exchanged import Exchanged


class Costs(NamedTuple):
    """The costs of a method.

    Attributes:
      bytes_per_sync: bytes that a device sends per synchronisation, with one worker per device.
      lower_bound: the fewest bytes that an exact exchange can send; a compressed one may send less.
      all_reduce: bytes of a ring all-reduce of the full model.
      steps_per_sync: local steps between two synchronisations; None: one synchronisation per round.
      model_parameters: number of parameters of the full model.
      device_parameters: number of parameters of one worker's model.
      leaves: the cost of every leaf that is sent. Names of optimizer state start with 'opt_state/'
        or 'outer_state/'.
      messages_per_sync: messages that a device sends one after another: one to the next holders,
        two between homes and subnetworks, 2 (S - 1) in a ring all-reduce. Blocks sent to several
        devices at once count as one message.
    """

    bytes_per_sync: float
    lower_bound: float
    all_reduce: float
    steps_per_sync: int | None
    model_parameters: int
    device_parameters: int
    leaves: tuple[costs.LeafCost, ...]
    messages_per_sync: int

    def syncs(self, steps: int) -> float:
        """The number of synchronisations in a round of `steps` local steps."""
        return steps / self.steps_per_sync if self.steps_per_sync else 1

    def bytes_per_round(self, steps: int) -> float:
        """Bytes sent per device in a round of `steps` local steps."""
        return self.bytes_per_sync * self.syncs(steps)

    def link_seconds(self, link: Link, steps: int) -> float:
        """Seconds that the synchronisations of a round take over `link`."""
        return self.syncs(steps) * link.seconds(self.bytes_per_sync, self.messages_per_sync)


def _prefixed(prefix: str, leaves: Sequence[costs.LeafCost]) -> list[costs.LeafCost]:
    return [leaf._replace(name=f"{prefix}/{leaf.name}") for leaf in leaves]


def exchange_costs(
    labels: Exchanged, shapes: Exchanged, partition: Partition, codecs: Exchanged
) -> Costs:
    """The costs of a method that exchanges some trees once per round.

    Args:
      labels: labels of the exchanged trees.
      shapes: their arrays or ShapeDtypeStructs.
      partition: the partition, with its holder-sharded groups chosen.
      codecs: the codec name of each tree.
    """
    sent = (
        *costs.leaf_costs(labels.params, shapes.params, partition, codecs.params),
        *_prefixed(
            "opt_state",
            costs.leaf_costs(labels.opt_state, shapes.opt_state, partition, codecs.opt_state),
        ),
        *_prefixed(
            "outer_state",
            costs.outer_state_costs(
                labels.outer_state, shapes.outer_state, partition, codecs.outer_state
            ),
        ),
    )
    return costs_without_exchange(labels.params, shapes.params, partition)._replace(
        bytes_per_sync=sum((leaf.sent for leaf in sent), 0.0),
        lower_bound=sum((leaf.lower_bound for leaf in sent), 0.0),
        all_reduce=costs.all_reduce_bytes(tree_bytes(shapes.params), partition.num_subnets),
        leaves=sent,
        messages_per_sync=costs.messages(sent, partition.num_subnets),
    )


def costs_without_exchange(labels: Any, shapes: Any, partition: Partition) -> Costs:
    """The costs of a method that sends nothing.

    Args:
      labels: labels of the parameters.
      shapes: the parameters' arrays or ShapeDtypeStructs.
      partition: which units each worker holds.
    """
    entries = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.int8), shapes)
    return Costs(
        bytes_per_sync=0.0,
        lower_bound=0.0,
        all_reduce=0.0,
        steps_per_sync=None,
        model_parameters=tree_size(shapes),
        device_parameters=costs.subnet_bytes(labels, entries, partition),
        leaves=(),
        messages_per_sync=0,
    )
