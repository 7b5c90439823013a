"""An ensemble of subnetworks that never synchronise: IST without its exchange, as a baseline."""

import dataclasses

import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.partition import partition
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Batch, Indices, Key
from ist_jax.exchange import independent
from ist_jax.methods.base import Method, MethodInfo
from ist_jax.methods.costs import Turn, costs_without_exchange
from ist_jax.methods.exchanged import exchanged_trees
from ist_jax.methods.optimizer_facts import inspect
from ist_jax.methods.optimizer_state import check_local
from ist_jax.methods.predictor import Predictor
from ist_jax.methods.state import State
from ist_jax.methods.subnet_method import SubnetMethod


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble(SubnetMethod):
    """Subnetworks never synchronise. The prediction is the mean of their outputs."""

    def check_local_steps(self, steps: int) -> None:
        """Accepts any number: a member continues where its last round ended."""
        del steps

    def plan(self, state: State, key: Key) -> Indices:
        del key
        return state.indices

    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        make = self.predictors.of_subnets if subnets else self.predictors.of_ensemble
        return make(state, self.pull(state).params, calibration)


def ensemble(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
) -> Method:
    """S subnetworks that never synchronise. Each holds a contiguous slice of every group.

    For the arguments, see `ist`. Optimizer state stays with its subnetwork.

    Raises:
      ValueError: the rules do not fit the model, or the optimizer needs more than gradients.
    """
    placement = placement or vmapped()
    drawn = decomposition.partition
    fixed = partition("fixed", drawn.sizes, drawn.num_subnets)
    decomposition = decomposition._replace(partition=fixed)
    labels, shapes = exchanged_trees(decomposition, tx)
    facts = inspect(tx, shapes.params)
    check_local(facts, "local", merges=False, has_outer=False)
    costs = costs_without_exchange(labels.params, shapes.params, fixed)
    info = MethodInfo(
        num_workers=fixed.num_subnets,
        batch_size=batch_size,
        turns=(Turn(frozenset(leaf_names(shapes.params)), costs),),
        sharding=placement.replicated_sharding,
        partition=fixed,
    )
    return Ensemble(
        info,
        decomposition,
        task,
        tx,
        placement,
        independent(labels, fixed, placement.mesh),
        opt_state="local",
        facts=facts,
    )
