"""The interface of a method: all that the training loop knows about a way to train."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.partition import Partition
from ist_jax.core.processes import key_on
from ist_jax.core.sample_order import View
from ist_jax.core.trees import leaf_shapes, shape_difference
from ist_jax.core.types import Array, Batch, Indices, Key, Metrics, Params
from ist_jax.methods.costs import Costs, Turn, mean_costs
from ist_jax.methods.predictor import Predictor
from ist_jax.methods.state import Start, State, Worker


class StartError(ValueError):
    """The parameters to start from belong to another model."""


class MethodInfo(NamedTuple):
    """The properties of a method that never change.

    Attributes:
      num_workers: S.
      batch_size: B, examples per local step of one worker.
      turns: what the rounds of a cycle push, and their costs. Most methods have a cycle of one
        round, which pushes all parameters.
      sharding: the sharding of values that every device stores, such as data and keys.
      partition: which units each worker holds. It has no groups if workers hold the full model.
    """

    num_workers: int
    batch_size: int
    turns: tuple[Turn, ...]
    sharding: jax.sharding.Sharding
    partition: Partition

    @property
    def costs(self) -> Costs:
        """Bytes and sizes by arithmetic: the mean over the rounds of a cycle."""
        return mean_costs(self.turns)


@dataclasses.dataclass(frozen=True, eq=False)
class Method(abc.ABC):
    """A way to train. All its functions are pure: they take a state and return a new one.

    A subclass defines how units are planned, exchanged and trained. The fields of `info` are also
    properties of the method.
    """

    info: MethodInfo

    @property
    def num_workers(self) -> int:
        return self.info.num_workers

    @property
    def batch_size(self) -> int:
        return self.info.batch_size

    @functools.cached_property
    def costs(self) -> Costs:
        return self.info.costs

    @property
    def sharding(self) -> jax.sharding.Sharding:
        return self.info.sharding

    @property
    def partition(self) -> Partition:
        return self.info.partition

    @abc.abstractmethod
    def init(self, key: Key, start: Start | None = None) -> State:
        """The state before the first round: initialised with `key`, or continued from `start`."""

    @abc.abstractmethod
    def plan(self, state: State, key: Key) -> Indices:
        """The units that each worker trains in the next round: group -> int32[S, M].

        They depend on the state before the round and the round's key. `state.round` is the number
        of rounds before this one.
        """

    def turn(self, number: int) -> int:
        """The position in the cycle of the round that `number` rounds precede in its phase.

        Rounds that push the same parameters share a program; they all have the position of the
        first of them.
        """
        turns = self.info.turns
        return turns.index(turns[number % len(turns)])

    @property
    def programs(self) -> list[int]:
        """The positions in the cycle that have a separate program; see `turn`."""
        return sorted(set(map(self.turn, range(len(self.info.turns)))))

    @abc.abstractmethod
    def _round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int, turn: int = 0
    ) -> tuple[State, Metrics]:
        """`round`, not compiled."""

    @functools.cached_property
    def round(self) -> jax.stages.Wrapped:
        """(state, view, key, weight_S, *, steps, turn=0) -> (state, {'loss_SxJ': local losses}).

        If the task weights its batches, there is also 'weight_SxJ', the numbers of their examples.
        One round: plan, pull, `steps` local steps, push. Each pair of `steps` and `turn`, the
        position in the cycle, is one compiled program. It reuses the memory of `state`, which is
        invalid afterwards. float32[S] `weight_S` is the participation of each worker: 1 is full, 0
        is failed.
        """
        return jax.jit(self._round, static_argnames=("steps", "turn"), donate_argnums=0)

    @abc.abstractmethod
    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        """A callable pytree: batch -> outputs of the full model.

        Args:
          state: provides the parameters.
          calibration: a batch on which normalisation statistics are measured in one pass; None:
            every batch is normalised with its own statistics.
          subnets: whether to predict with the models of all S workers instead. Their outputs are
            stacked along a leading axis S.
        """

    @abc.abstractmethod
    def params(self, state: State) -> Params:
        """The full model's parameters in original order."""

    @abc.abstractmethod
    def end(self, state: State) -> Start:
        """The start of the next phase, in original order."""

    @abc.abstractmethod
    def first_worker(self, state: State) -> Worker:
        """The first worker at the start of its local steps."""

    @abc.abstractmethod
    def local_steps(
        self, state: State, view: View, key: Key, *, steps: int
    ) -> tuple[Params, Any, Array]:
        """(params, opt_state, loss_J) after `steps` local steps of the first worker alone.

        The last loop of the program must be the loop over steps: the meter counts its operations.
        """

    def check_local_steps(self, steps: int) -> None:
        """Raises ValueError if rounds of `steps` local steps would lose accumulated gradients."""
        del steps

    def check_first_step(self, step: int) -> None:
        """Raises ValueError if a fresh state of the optimizer cannot begin at this local step."""
        del step

    def output_shapes(self, batch: Batch) -> Mapping[str, Any]:
        """Name of a model -> the shapes of its outputs for a batch (arrays or ShapeDtypeStructs).

        {}, the default, means that they are not known before training.

        Raises:
          ValueError: a model fails on the batch.
        """
        del batch
        return {}

    def warnings(self, make_batch: Callable[[], Batch]) -> Sequence[str]:
        """Warnings about the method before training, one line each.

        `make_batch` returns a batch of training examples, for methods that need one.
        """
        del make_batch
        return ()

    def shapes(self) -> Params:
        """The shapes and dtypes of the full model's parameters."""
        return jax.eval_shape(lambda key: self.params(self.init(key)), jax.random.key(0))

    def check(self, start: Start) -> None:
        """Raises StartError if the parameters of `start` belong to another model."""
        if difference := shape_difference(leaf_shapes(start.params), leaf_shapes(self.shapes())):
            raise StartError(f"a run starts from parameters of the same model, but {difference}")

    def start_sharding(self, leaf: Any) -> jax.sharding.Sharding:
        """The sharding of a leaf of a `Start`.

        If units are exchanged over a mesh, leaves are sharded along an axis where possible, so that
        no device stores a full leaf.
        """
        sharding = self.info.sharding
        if self.info.partition.sizes and isinstance(sharding, NamedSharding):
            mesh, shape = sharding.mesh, jnp.shape(leaf)
            if axes := [axis for axis, length in enumerate(shape) if length % mesh.size == 0]:
                return NamedSharding(mesh, PartitionSpec(*[None] * axes[0], mesh.axis_names[0]))
        return sharding

    def fresh(self, key: Key, start: Start | None = None) -> State:
        """`init` as one compiled program, on the devices of the method.

        Raises:
          StartError: the parameters of `start` belong to another model.
        """
        return jax.jit(self.init)(*self.init_arguments(key, start))

    def init_arguments(self, key: Key, start: Start | None) -> tuple[Key, Start | None]:
        """The arguments of `init`, on the devices of the method. Raises StartError like `fresh`."""
        if start is not None:
            self.check(start)
            if start.opt_state is None:
                self.check_first_step(int(start.step))
            step, round = jnp.asarray((start.step, start.round), jnp.int32)
            start = start._replace(step=step, round=round)
            # the previous phase may have run on other devices
            start = jax.device_put(start, jax.tree.map(self.start_sharding, start))
        return key_on(self.info.sharding, key), start
