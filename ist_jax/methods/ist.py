"""Independent Subnetwork Training.

B. Yuan, C. R. Wolfe, C. Dun, Y. Tang, A. Kyrillidis, C. Jermaine: Distributed Learning of Fully
Connected Neural Networks using Independent Subnet Training, PVLDB 15(8), 2022 (arXiv 1910.02120).

A round draws a partition, sends every subnetwork its units, trains each subnetwork alone for J
steps, and writes the units back.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.keys import named_key
from ist_jax.core.partition import Partition
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.subnet import is_label
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Batch, Indices, Key, Params
from ist_jax.exchange import Exchange, choose_holder_sharded, one_device, over_mesh
from ist_jax.methods.base import Method, MethodInfo
from ist_jax.methods.costs import Turn, exchange_costs
from ist_jax.methods.exchanged import Exchanged, exchanged_trees
from ist_jax.methods.optimizer_facts import StateFacts, inspect
from ist_jax.methods.optimizer_state import check_local, check_noise
from ist_jax.methods.outer import Outer, parts_of, with_outer_state
from ist_jax.methods.scale_check import scale_warning
from ist_jax.methods.state import State
from ist_jax.methods.subnet_method import OPT_STATES, SubnetMethod

# compression of parameters -> codec of optimizer state
STATE_COMPRESSION = {"exact": "exact", "bfloat16": "state", "int8": "state"}


@dataclasses.dataclass(frozen=True, eq=False)
class Ist(SubnetMethod):
    """Every round draws the units anew."""

    def plan(self, state: State, key: Key) -> Indices:
        return self.decomposition.partition.sample(named_key(key, "partition"), state.indices)

    def warnings(self, make_batch: Callable[[], Batch]) -> Sequence[str]:
        split = self.decomposition
        if not split.checks_scale or split.num_subnets == 1 or not split.partition.sizes:
            return ()
        warning = scale_warning(split, self.task, make_batch())
        return (warning,) if warning else ()


def drawn_partitions(partition: Partition, seed: int, rounds: int) -> list[Indices]:
    """The partitions of the first rounds of a run with this seed, without training.

    Args:
      partition: the `MethodInfo.partition` of the run's method.
      seed: the seed of the run.
      rounds: the number of rounds.
    """
    indices, drawn = partition.first(), []
    for round in range(rounds):
        key = named_key(jax.random.fold_in(jax.random.key(seed), round), "partition")
        indices = partition.sample(key, indices)
        drawn.append(indices)
    return drawn


def _check_options(partition: Partition, opt_state: str, compression: str) -> None:
    if compression not in STATE_COMPRESSION:
        raise ValueError(f"compression is one of {tuple(STATE_COMPRESSION)}, not {compression!r}")
    if opt_state not in OPT_STATES:
        raise ValueError(f"opt_state is one of {OPT_STATES}, not {opt_state!r}")
    if opt_state == "local" and partition.sizes and partition.name != "fixed":
        raise ValueError(
            "opt_state='local' stays with the worker while its units move on: "
            "use 'reset' or 'carry'"
        )


def _checked_facts(
    decomposition: Decomposition,
    tx: optax.GradientTransformation,
    opt_state: str,
    outer_tx: optax.GradientTransformation | None,
    params: Params,
) -> StateFacts:
    """What the state of `tx` holds. Raises ValueError if an optimizer cannot be used so."""
    facts, merges = inspect(tx, params), decomposition.num_subnets > 1
    check_local(facts, opt_state, merges=merges, has_outer=outer_tx is not None)
    if outer_tx is not None:
        check_noise(inspect(outer_tx, params))
    return facts


def _with_layout(
    partition: Partition, labels: Exchanged, shapes: Exchanged, home_sharded: bool
) -> Partition:
    """The partition with its holder-sharded groups chosen: none, or the cheapest to synchronise."""
    if home_sharded:
        return partition.with_holder_sharded(())
    outer_state = (labels.outer_state, shapes.outer_state)
    return choose_holder_sharded(partition, labels.pulled, shapes.pulled, outer_state)


def _shared(labels: Exchanged, shapes: Exchanged) -> frozenset[str]:
    """The names of the parameters without a group."""
    flat = jax.tree.leaves(labels.params, is_leaf=is_label)
    names = leaf_names(shapes.params)
    return frozenset(name for name, label in zip(names, flat) if not label.groups)


def _cycle(labels: Exchanged, shapes: Exchanged, average_every: int) -> list[frozenset[str]]:
    """What each round of a cycle pushes: units in every round, shared leaves in the last one."""
    every, shared = frozenset(leaf_names(shapes.params)), _shared(labels, shapes)
    if average_every > 1 and not shared:
        raise ValueError(
            f"average_every={average_every} averages parameters without a group less often, but "
            "every parameter has a group: use 1"
        )
    return [every - shared] * (average_every - 1) + [every]


def _check_cycle(cycle: Sequence[frozenset[str]], labels: Exchanged, shapes: Exchanged) -> None:
    every, shared = frozenset(leaf_names(shapes.params)), _shared(labels, shapes)
    always = frozenset.intersection(*cycle)
    if left_out := sorted(every.difference(*cycle) | (every - shared - always)):
        raise ValueError(
            "every round of a cycle must push the parameters with a group, since their units move "
            f"on, and at least one round all others: this cycle leaves out {left_out[0]!r}"
        )


def _outer(
    tx: optax.GradientTransformation | None,
    make: Callable[..., Exchange],
    labels: Exchanged,
    shapes: Exchanged,
    partition: Partition,
    codec: str,
    cycle: Sequence[frozenset[str]],
) -> Outer | None:
    if tx is None:
        return None
    exchange = make(labels.outer_state, shapes.outer_state, partition, compressions=codec)
    return Outer(tx, exchange, parts_of(cycle))


def fields_of(
    make_cycle: Callable[[Exchanged, Exchanged], Sequence[frozenset[str]]],
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
    opt_state: str = "reset",
    outer_tx: optax.GradientTransformation | None = None,
    home_sharded: bool = False,
    compression: str = "exact",
) -> dict[str, Any]:
    """The fields of a `SubnetMethod`, from the arguments of `ist`.

    Args:
      make_cycle: (labels, shapes) -> for every round of a cycle, the names of the parameters that
        it pushes. Only those without a group may be left out.
      decomposition: as in `ist`; so are the other arguments.

    Raises:
      ValueError: the cycle leaves out a parameter; also as in `ist`.
    """
    placement = placement or vmapped()
    _check_options(decomposition.partition, opt_state, compression)
    labels, shapes = exchanged_trees(decomposition, tx, opt_state)
    cycle = make_cycle(labels, shapes)
    _check_cycle(cycle, labels, shapes)
    if outer_tx is not None:
        labels, shapes = with_outer_state(labels, shapes, outer_tx, parts_of(cycle))
    facts = _checked_facts(decomposition, tx, opt_state, outer_tx, shapes.params)
    partition = _with_layout(decomposition.partition, labels, shapes, home_sharded)
    make, state_codec = one_device, STATE_COMPRESSION[compression]
    if placement.mesh is not None:
        make = functools.partial(over_mesh, mesh=placement.mesh)
    codecs = Exchanged(compression, state_codec, state_codec)
    costs = functools.partial(exchange_costs, labels, shapes, partition, codecs)
    info = MethodInfo(
        num_workers=partition.num_subnets,
        batch_size=batch_size,
        turns=tuple(Turn(pushed, costs(pushed)) for pushed in cycle),
        sharding=placement.replicated_sharding,
        partition=partition,
    )
    return dict(
        info=info,
        decomposition=decomposition._replace(partition=partition),
        task=task,
        tx=tx,
        placement=placement,
        exchange=make(labels.pulled, shapes.pulled, partition, compressions=codecs),
        opt_state=opt_state,
        facts=facts,
        outer=_outer(outer_tx, make, labels, shapes, partition, state_codec, cycle),
        copied=frozenset().union(*cycle) - frozenset.intersection(*cycle),
    )


def ist(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
    opt_state: str = "reset",
    outer_tx: optax.GradientTransformation | None = None,
    home_sharded: bool = False,
    compression: str = "exact",
    average_every: int = 1,
) -> Method:
    """Independent subnetwork training with `decomposition.num_subnets` subnetworks.

    Args:
      decomposition: how the model is split.
      task: the problem to solve.
      tx: the local optimizer. Its learning-rate schedule runs on the global step. An optimizer
        that would go wrong between rounds is refused (docs/optimizers.md).
      batch_size: examples per local step of one subnetwork.
      placement: where subnetworks train; default: vmapped on one device. Use `looped()`, also
        inside `sharded`, for convolutional networks: batching over subnetworks would turn their
        convolutions into slow grouped ones.
      opt_state: 'reset' initialises the optimizer in every round (as the authors' releases do).
        'carry' moves its state with the units, and averages it if a unit has several holders. An
        entry is then trained 1/S of the time, and the bias of its second moment is
        under-corrected. 'local' leaves the state with the worker, whose units must not change.
      outer_tx: the outer optimizer. Its gradient is the old parameters minus the new ones of a
        synchronisation. None: the new parameters are used as they are. Outer momentum also moves
        entries that no worker trained.
      home_sharded: whether all groups are home-sharded. By default, only the groups for which that
        is cheaper are (`exchange.layout`).
      compression: how units are sent (`exchange.codecs`): 'exact', 'bfloat16' or 'int8'. The latter
        two round units, and send optimizer state as bfloat16. Leaves without a group are always
        averaged exactly.
      average_every: rounds between two averages of the parameters without a group. In between,
        every worker trains its own copy of them, and the full model uses the mean of the copies.
        Units are exchanged in every round.

    Raises:
      ValueError: an option has an unknown value, the rules do not fit the model, the optimizer does
        not fit `opt_state`, or a mesh cannot exchange the partition.
    """
    if average_every < 1:
        raise ValueError(f"average_every, a number of rounds, is at least 1, not {average_every}")
    fields = fields_of(
        functools.partial(_cycle, average_every=average_every),
        decomposition,
        task,
        tx,
        batch_size=batch_size,
        placement=placement,
        opt_state=opt_state,
        outer_tx=outer_tx,
        home_sharded=home_sharded,
        compression=compression,
    )
    return Ist(**fields)
