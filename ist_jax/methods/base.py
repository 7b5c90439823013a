"""The interface that the training loop knows: an algorithm is a tuple of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.analysis import costs
from ist_jax.analysis.links import Link
from ist_jax.core.partition import Partition
from ist_jax.core.processes import key_on
from ist_jax.core.trees import leaf_shapes, shape_difference, tree_bytes, tree_size
from ist_jax.core.types import Array, Batch, Key, Metrics, Params, Variables


class StartError(ValueError):
    """Parameters of another model."""


class Start(NamedTuple):
    """What one phase of a run hands to the next, or another run to this one, in original order.

    Attributes:
      params: the whole model's parameters.
      opt_state: the optimizer's state over them, None where it is not kept between rounds.
      step: local steps so far; learning-rate schedules run on it.
    """

    params: Params
    opt_state: Any = None
    step: Array | int = 0


class State(NamedTuple):
    """What an algorithm keeps between rounds.

    Attributes:
      store: the global parameters, as the exchange lays them.
      opt_state: optimizer state that is not part of the store, or ().
      outer_state: state of the outer optimizer, or ().
      indices: the current partition.
      step: int32[], local steps so far, over all phases.
      position: int32[], examples that each worker has drawn in this phase.
    """

    store: Any
    opt_state: Any
    outer_state: Any
    indices: Any
    step: Array
    position: Array


class Worker(NamedTuple):
    """One worker of a state, alone.

    Attributes:
      params: of its model.
      opt_state: its local optimizer's.
      indices: which units it holds; without groups where workers hold whole models.
      number: int32[], which worker it is.
      position: int32[], examples that it has drawn.
    """

    params: Params
    opt_state: Any
    indices: Any
    number: Array
    position: Array


class Costs(NamedTuple):
    """What an algorithm sends and holds, by arithmetic (`ist_jax.analysis.costs`).

    Attributes:
      bytes_per_sync: sent per device and synchronisation if every worker has a device.
      lower_bound: bytes that no exact exchange can go below; a rounded one may.
      all_reduce: bytes of a ring all-reduce of the full model.
      steps_per_sync: local steps between two synchronisations; None: one synchronisation a round.
      model_parameters: entries of the full model.
      device_parameters: entries of one worker's model.
      leaves: of every leaf that is sent, parameters by their names, optimizer state as 'opt_state/...', 'outer_state/...'.
      messages_per_sync: that a device sends one after another (its blocks to several others count as one): one to the
        next holders, two to home and back, 2 (S - 1) in a ring all-reduce.
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
        """Synchronisations of a round of `steps` local steps."""
        return steps / self.steps_per_sync if self.steps_per_sync else 1

    def bytes_per_round(self, steps: int) -> float:
        """Bytes sent per device in a round of `steps` local steps."""
        return self.bytes_per_sync * self.syncs(steps)

    def link_seconds(self, link: Link, steps: int) -> float:
        """What the synchronisations of a round take over `link`."""
        return self.syncs(steps) * link.seconds(self.bytes_per_sync, self.messages_per_sync)


def exchange_costs(
    labels: Any,
    shapes: Any,
    exchanged: tuple[Any, Any],
    kept: tuple[Any, Any],
    partition: Partition,
    synchronises: bool,
    wires: tuple[str, str] = ("exact", "exact"),
) -> Costs:
    """The costs of an algorithm that exchanges the (labels, shapes) of `exchanged` once a round.

    Args:
      labels: of the parameters.
      shapes: the parameters'.
      exchanged: of what goes to the subnetworks and back: ((labels, those of optimizer state), (shapes, its)).
      kept: of what never does, but may rest with the holders of its units.
      partition: with its travelling groups.
      synchronises: whether anything is sent.
      wires: as of `exchange.over_mesh`, of parameters and of optimizer state.
    """
    entries = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.int8), shapes)
    (_, state_labels), (_, state_shapes) = exchanged
    of = lambda place, found: [leaf._replace(name=f"{place}/{leaf.name}") for leaf in found]
    leaves = [
        *costs.leaf_costs(labels, shapes, partition, wires[0]),
        *of("opt_state", costs.leaf_costs(state_labels, state_shapes, partition, wires[1])),
        *of("outer_state", costs.outer_state_costs(*kept, partition, wires[1])),
    ]
    leaves = leaves if synchronises else []
    return Costs(
        bytes_per_sync=sum((leaf.sent for leaf in leaves), 0.0),
        lower_bound=sum((leaf.lower_bound for leaf in leaves), 0.0),
        all_reduce=costs.all_reduce_bytes(tree_bytes(shapes), partition.num_subnets)
        if synchronises
        else 0.0,
        steps_per_sync=None,
        model_parameters=tree_size(shapes),
        device_parameters=costs.subnet_bytes(labels, entries, partition),
        leaves=tuple(leaves),
        messages_per_sync=costs.messages(leaves, partition.num_subnets),
    )


class Algorithm(NamedTuple):
    """A way to train, as pure functions made by a factory.

    Attributes:
      init: (key, start=None) -> State, from a fresh initialisation or from another phase's end.
      round: (state, view, key, weight_S, *, steps) -> (state, metrics): sample a partition, pull, `steps` local
        steps, push; one jitted program per distinct `steps`, the state donated. metrics: {'loss_SxJ'}.
      variables: (state, sample or None) -> what the whole model is evaluated with: its parameters, and
        normalisation statistics measured in one pass over the batch `sample` (None: of every test batch).
      predict: (variables, batch) -> logits_BxC of the whole model (of an ensemble: the mean of logits).
      subnet_variables: (state, sample or None) -> {'variables': as `variables`, of all S subnetworks, stacked;
        'indices': which units they hold}; where workers hold whole models, those.
      subnet_predict: (what subnet_variables gives, batch) -> logits_SxBxC.
      one_worker: state -> Worker, the first; with `one_step`, what local training costs without everything around it.
      one_step: (worker, view, key, *, steps=1) -> (params, opt_state, losses) after local steps of one worker alone.
      params: state -> params of the whole model, in original order.
      end: state -> Start of the next phase.
      num_workers: S.
      batch_size: examples of one local step of one worker.
      costs: bytes and sizes by arithmetic.
      sharding: of values that every device holds (data, keys).
      partition: which units each worker holds; without groups where workers hold whole models.
    """

    init: Callable[..., State]
    round: Callable[..., tuple[State, Metrics]]
    variables: Callable[[State, Batch | None], Variables]
    predict: Callable[[Variables, Batch], Array]
    subnet_variables: Callable[[State, Batch | None], Variables]
    subnet_predict: Callable[[Variables, Batch], Array]
    one_worker: Callable[[State], Worker]
    one_step: Callable[..., Any]
    params: Callable[[State], Params]
    end: Callable[[State], Start]
    num_workers: int
    batch_size: int
    costs: Costs
    sharding: jax.sharding.Sharding
    partition: Partition

    def shapes(self) -> Params:
        """Shapes and dtypes of the whole model's parameters."""
        return jax.eval_shape(lambda key: self.params(self.init(key)), jax.random.key(0))

    def check(self, start: Start) -> None:
        """Raises StartError if `start` has parameters of another model."""
        if difference := shape_difference(leaf_shapes(start.params), leaf_shapes(self.shapes())):
            raise StartError(f"a run starts from parameters of its own model, and {difference}")

    def start_sharding(self, leaf: Any) -> jax.sharding.Sharding:
        """How a leaf of a `Start` comes to the devices: where units are dealt, in parts, so that none ever holds all of it."""
        if self.partition.sizes and isinstance(self.sharding, NamedSharding):
            mesh, shape = self.sharding.mesh, jnp.shape(leaf)
            if axes := [axis for axis, length in enumerate(shape) if length % mesh.size == 0]:
                return NamedSharding(mesh, PartitionSpec(*[None] * axes[0], mesh.axis_names[0]))
        return self.sharding

    def fresh(self, key: Key, start: Start | None = None) -> State:
        """`init` as one compiled program, on the devices of the algorithm.

        Raises:
          StartError: `start` has parameters of another model.
        """
        if start is not None:
            self.check(start)
            start = start._replace(step=jnp.asarray(start.step, jnp.int32))
            # another phase's devices may be others
            start = jax.device_put(start, jax.tree.map(self.start_sharding, start))
        return jax.jit(self.init)(key_on(self.sharding, key), start)
