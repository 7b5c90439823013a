"""Independent Subnetwork Training.

B. Yuan, C. R. Wolfe, C. Dun, Y. Tang, A. Kyrillidis, C. Jermaine: Distributed Learning of Fully
Connected Neural Networks using Independent Subnet Training, PVLDB 15(8), 2022 (arXiv 1910.02120).

A round draws a partition, sends every subnetwork its units, trains each subnetwork alone for J
steps, and writes the units back.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.keys import named_key
from ist_jax.core.partition import Partition
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.task import Task
from ist_jax.core.types import Batch, Indices, Key, Params
from ist_jax.exchange import choose_holder_sharded, one_device, over_mesh
from ist_jax.methods.base import Method, MethodInfo
from ist_jax.methods.costs import exchange_costs
from ist_jax.methods.exchanged import Exchanged
from ist_jax.methods.optimizer_facts import StateFacts, inspect
from ist_jax.methods.optimizer_state import check_local, check_noise
from ist_jax.methods.scale_check import scale_warning
from ist_jax.methods.state import Plan, State
from ist_jax.methods.subnet_method import OPT_STATES, Outer, SubnetMethod, exchanged_trees

# compression of parameters -> codec of optimizer state
STATE_COMPRESSION = {"exact": "exact", "bfloat16": "state", "int8": "state"}


@dataclasses.dataclass(frozen=True, eq=False)
class Ist(SubnetMethod):
    """Every round draws the units anew and synchronises all of them."""

    def plan(self, state: State, key: Key) -> Plan:
        partition = self.decomposition.partition
        indices = partition.sample(named_key(key, "partition"), state.indices)
        return Plan(indices, synchronised=frozenset([*partition.sizes, None]))

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
        round. None: the new parameters are used as they are. Outer momentum also moves entries that
        no worker trained.
      home_sharded: whether all groups are home-sharded. By default, only the groups for which that
        is cheaper are (`exchange.layout`).
      compression: how units are sent (`exchange.codecs`): 'exact', 'bfloat16' or 'int8'. The latter
        two round units, and send optimizer state as bfloat16. Leaves without a group are always
        averaged exactly.

    Raises:
      ValueError: an option has an unknown value, the rules do not fit the model, the optimizer does
        not fit `opt_state`, or a mesh cannot exchange the partition.
    """
    placement = placement or vmapped()
    _check_options(decomposition.partition, opt_state, compression)
    labels, shapes = exchanged_trees(decomposition, tx, opt_state, outer_tx)
    facts = _checked_facts(decomposition, tx, opt_state, outer_tx, shapes.params)
    partition = _with_layout(decomposition.partition, labels, shapes, home_sharded)
    make, state_codec = one_device, STATE_COMPRESSION[compression]
    if placement.mesh is not None:
        make = functools.partial(over_mesh, mesh=placement.mesh)
    codecs = Exchanged(compression, state_codec, state_codec)
    outer = None
    if outer_tx is not None:
        state = (labels.outer_state, shapes.outer_state)
        outer = Outer(outer_tx, make(*state, partition, compressions=state_codec))
    info = MethodInfo(
        num_workers=partition.num_subnets,
        batch_size=batch_size,
        costs=exchange_costs(labels, shapes, partition, codecs),
        sharding=placement.replicated_sharding,
        partition=partition,
    )
    return Ist(
        info,
        decomposition._replace(partition=partition),
        task,
        tx,
        placement,
        make(labels.pulled, shapes.pulled, partition, compressions=codecs),
        opt_state,
        facts,
        outer,
    )
