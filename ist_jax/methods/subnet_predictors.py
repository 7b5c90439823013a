"""Predictors of the full model, of its subnetworks, and of their ensemble."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.model import Calibrated, Model, Stats
from ist_jax.core.partition import uneven_groups
from ist_jax.core.placement import Placement
from ist_jax.core.sharded_stack import ShardedStack
from ist_jax.core.task import Task
from ist_jax.core.trees import map_with_names, match
from ist_jax.core.types import Array, Batch, Indices, Params
from ist_jax.exchange import Exchange, storage_order
from ist_jax.methods.local_batch import input_sizes, local_batch
from ist_jax.methods.predictor import Predictor, measure_stats
from ist_jax.methods.state import State


@dataclasses.dataclass(frozen=True, eq=False)
class SubnetPredictors:
    """Makes the predictors of one method. For the attributes, see `SubnetMethod`."""

    decomposition: Decomposition
    task: Task
    placement: Placement
    exchange: Exchange

    def of_full_model(self, state: State, calibration: Batch | None) -> Predictor:
        """The full model.

        If it computes the same function with units in storage order, they stay in that order, and
        no device stores the full model. Otherwise they are in original order.
        """
        model = self._stored_model
        if model is None:
            model, params, indices = self.decomposition.full, self._in_original_order(state), {}
        else:
            params = self.exchange.stored_params(state.store, state.indices).params
            units = storage_order(self.decomposition.partition, state.indices)
            indices = {group: units[group] for group in input_sizes(self.decomposition)}
        if calibration is not None:
            calibration = self._ordered_inputs(calibration, indices)
        stats = measure_stats(model, self.task, params, calibration)
        return Predictor(params, stats, indices, self._predict)

    def of_subnets(self, state: State, params_S: Params, calibration: Batch | None) -> Predictor:
        """The S subnetworks with these parameters. Outputs are stacked along a leading axis S."""

        def measure(calibration: Batch | None, worker: tuple[Params, Indices]) -> Any:
            params, indices = worker
            if calibration is not None:
                calibration = self._local(calibration, indices)
            return params, measure_stats(self.decomposition.subnet, self.task, params, calibration)

        indices = dict(state.indices)
        params_S, stats_S = self.placement(measure)(calibration, (params_S, indices))
        return Predictor(params_S, stats_S, indices, self._predict_by_subnets)

    def of_ensemble(self, state: State, params_S: Params, calibration: Batch | None) -> Predictor:
        """The mean of the outputs of the subnetworks with these parameters."""
        members = self.of_subnets(state, params_S, calibration)
        return dataclasses.replace(members, function=self._predict_by_ensemble)

    @property
    def _stored_model(self) -> Model | None:
        """The model that takes parameters in storage order; None if no model does."""
        partition = self.decomposition.partition
        if self.decomposition.ordered and partition.sizes:
            return None
        uneven = uneven_groups(partition.sizes, partition.num_subnets)
        return self.decomposition.padded if uneven else self.decomposition.full

    def _in_original_order(self, state: State) -> Params:
        """The full model's parameters in original order.

        Over a mesh, blocks become a `ShardedStack`: they stay where they are stored, and
        `models.residual.repeated` fetches one at a time.
        """
        mesh = self.placement.mesh
        if mesh is None:
            return self.exchange.params(state.store, state.indices).params
        partition = self.decomposition.partition
        units = storage_order(partition, state.indices)

        def ordered(name: str, leaf: Array) -> Array | ShardedStack:
            group = (match(self.decomposition.rules, name) or (None,))[0]
            if group is None:
                return leaf
            place_N = jnp.argsort(units[group])[: partition.sizes[group]]
            return ShardedStack(leaf, place_N, mesh)

        return map_with_names(
            ordered, self.exchange.stored_params(state.store, state.indices).params
        )

    def _local(self, batch: Batch, indices: Indices) -> Batch:
        return local_batch(self.decomposition, batch, indices)

    def _ordered_inputs(self, batch: Batch, indices: Indices) -> Batch:
        """The batch, with split inputs (groups of `indices`) in the order of the parameters."""
        return self._local(batch, indices) if indices else batch

    def _predict(self, params: Params, stats: Stats | None, indices: Indices, batch: Batch) -> Any:
        model = Calibrated(self._stored_model or self.decomposition.full, stats)
        return self.task.predict(model, params, self._ordered_inputs(batch, indices))

    def _predict_by_subnets(
        self, params_S: Params, stats_S: Stats | None, indices_S: Indices, batch: Batch
    ) -> Any:
        def one(batch: Batch, worker: tuple[Params, Stats | None, Indices]) -> Any:
            params, stats, indices = worker
            model = Calibrated(self.decomposition.subnet, stats)
            return self.task.predict(model, params, self._local(batch, indices))

        return self.placement(one)(batch, (params_S, stats_S, indices_S))

    def _predict_by_ensemble(
        self, params_S: Params, stats_S: Stats | None, indices_S: Indices, batch: Batch
    ) -> Any:
        outputs_S = self._predict_by_subnets(params_S, stats_S, indices_S, batch)
        return jax.tree.map(lambda leaf_S: leaf_S.mean(axis=0), outputs_S)
