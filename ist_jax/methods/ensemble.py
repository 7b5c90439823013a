"""Subnetworks that never synchronise, as a baseline of IST: its training without its exchange."""

import dataclasses

import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.partition import partition
from ist_jax.core.placement import Placement, vmapped
from ist_jax.core.task import Task
from ist_jax.core.types import Batch, Key
from ist_jax.exchange import independent
from ist_jax.methods.base import Method, MethodInfo
from ist_jax.methods.costs import silent_costs
from ist_jax.methods.predictor import Predictor
from ist_jax.methods.state import Plan, State
from ist_jax.methods.subnet_method import SubnetMethod, exchanged_trees


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble(SubnetMethod):
    """A plan that synchronises nothing; the prediction is the mean of the members' outputs."""

    def plan(self, state: State, key: Key) -> Plan:
        del key
        return Plan(state.indices, synchronised=frozenset())

    def predictor(
        self, state: State, calibration: Batch | None, *, subnets: bool = False
    ) -> Predictor:
        make = self.predictors.of_subnets if subnets else self.predictors.of_ensemble
        return make(state, calibration)


def ensemble(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
) -> Method:
    """S subnetworks, contiguous slices of every group, that never synchronise.

    Arguments are those of `ist`. The optimizer's state stays with its subnetwork.

    Raises:
      ValueError: labels or rules that do not fit the model.
    """
    placement = placement or vmapped()
    parts = decomposition.partition
    parts = partition("fixed", parts.sizes, parts.num_subnets)
    decomposition = decomposition._replace(partition=parts)
    labels, shapes = exchanged_trees(decomposition, tx)
    info = MethodInfo(
        num_workers=parts.num_subnets,
        batch_size=batch_size,
        costs=silent_costs(labels.params, shapes.params, parts),
        sharding=placement.replicated_sharding,
        partition=parts,
    )
    return Ensemble(
        info,
        decomposition,
        task,
        tx,
        placement,
        independent(labels, shapes, parts, mesh=placement.mesh),
        opt_state="local",
    )
