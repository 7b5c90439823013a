"""The bytes and parameters of a method, by arithmetic (`ist_jax.analysis.costs`)."""

import statistics
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ist_jax.analysis import costs
from ist_jax.analysis.links import Link
from ist_jax.core.partition import Partition
from ist_jax.core.trees import tree_bytes, tree_size
from ist_jax.methods.exchanged import Exchanged, owners


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
        devices at once count as one message. A mean over rounds need not be a whole number.
    """

    bytes_per_sync: float
    lower_bound: float
    all_reduce: float
    steps_per_sync: int | None
    model_parameters: int
    device_parameters: int
    leaves: tuple[costs.LeafCost, ...]
    messages_per_sync: float

    def syncs(self, steps: int) -> float:
        """The number of synchronisations in a round of `steps` local steps."""
        return steps / self.steps_per_sync if self.steps_per_sync else 1

    def bytes_per_round(self, steps: int) -> float:
        """Bytes sent per device in a round of `steps` local steps."""
        return self.bytes_per_sync * self.syncs(steps)

    def link_seconds(self, link: Link, steps: int) -> float:
        """Seconds that the synchronisations of a round take over `link`."""
        return self.syncs(steps) * link.seconds(self.bytes_per_sync, self.messages_per_sync)


class Turn(NamedTuple):
    """One round of a cycle of rounds, which a method repeats.

    Attributes:
      pushed: the names of the parameters that workers push after their local steps. Every worker
        keeps its copy of all others.
      costs: of the round.
    """

    pushed: frozenset[str]
    costs: Costs


def mean_costs(turns: Sequence[Turn]) -> Costs:
    """The mean costs of the rounds of a cycle."""
    every = [turn.costs for turn in turns]
    mean = lambda of: statistics.fmean(map(of, every))

    def mean_leaf(*rounds: costs.LeafCost) -> costs.LeafCost:
        sent = statistics.fmean(leaf.sent for leaf in rounds)
        bound = statistics.fmean(leaf.lower_bound for leaf in rounds)
        return rounds[0]._replace(sent=sent, lower_bound=bound)

    return every[0]._replace(
        bytes_per_sync=mean(lambda each: each.bytes_per_sync),
        lower_bound=mean(lambda each: each.lower_bound),
        leaves=tuple(map(mean_leaf, *(each.leaves for each in every))),
        messages_per_sync=mean(lambda each: each.messages_per_sync),
    )


def _prefixed(prefix: str, leaves: Sequence[costs.LeafCost]) -> list[costs.LeafCost]:
    return [leaf._replace(name=f"{prefix}/{leaf.name}") for leaf in leaves]


def _if_pushed(
    leaves: Sequence[costs.LeafCost], owned: Any, pushed: Collection[str] | None
) -> list[costs.LeafCost]:
    """The costs of leaves. Leaves of parameters that are not `pushed` send nothing."""
    unsent = lambda leaf: leaf._replace(sent=0.0, lower_bound=0.0)
    return [
        leaf if pushed is None or owner in pushed else unsent(leaf)
        for owner, leaf in zip(jax.tree.leaves(owned), leaves, strict=True)
    ]


def exchange_costs(
    labels: Exchanged,
    shapes: Exchanged,
    partition: Partition,
    codecs: Exchanged,
    pushed: frozenset[str] | None = None,
) -> Costs:
    """The costs of a method that exchanges some trees once per round.

    Args:
      labels: labels of the exchanged trees.
      shapes: their arrays or ShapeDtypeStructs.
      partition: the partition, with its holder-sharded groups chosen.
      codecs: the codec name of each tree.
      pushed: the names of the parameters that the round pushes; None: all.
    """
    given, owned = zip(labels, shapes, [partition] * 3, codecs), owners(shapes)
    params, opt_state, outer_state = given
    sent = (
        *_if_pushed(costs.leaf_costs(*params), owned.params, pushed),
        *_prefixed("opt_state", _if_pushed(costs.leaf_costs(*opt_state), owned.opt_state, pushed)),
        *_prefixed("outer_state", costs.outer_state_costs(*outer_state)),
    )
    nothing = costs_without_exchange(labels.params, shapes.params, partition)
    full = costs.all_reduce_bytes(tree_bytes(shapes.params), partition.num_subnets)
    return with_leaves(nothing._replace(all_reduce=full), sent, partition.num_subnets)


def with_leaves(base: Costs, leaves: Sequence[costs.LeafCost], num_workers: int) -> Costs:
    """`base`, for a method that sends these leaves in a synchronisation."""
    return base._replace(
        bytes_per_sync=sum((leaf.sent for leaf in leaves), 0.0),
        lower_bound=sum((leaf.lower_bound for leaf in leaves), 0.0),
        leaves=tuple(leaves),
        messages_per_sync=costs.messages(leaves, num_workers),
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
