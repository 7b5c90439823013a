"""Independent Subnetwork Training, and what is a special case of it.

B. Yuan, C. R. Wolfe, C. Dun, Y. Tang, A. Kyrillidis, C. Jermaine: Distributed Learning of Fully Connected
Neural Networks using Independent Subnet Training, PVLDB 15(8), 2022 (arXiv 1910.02120).

A round: draw a partition, send every subnetwork its units, train each alone for J steps, write the units
back. Local SGD is IST with no groups (McMahan et al. 2017; Stich 2019). DiLoCo is local SGD with an outer
optimizer on the pseudo-gradient (Douillard et al., arXiv 2311.08105). An ensemble is S subnetworks that never
meet and whose logits are averaged.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.keys import named_key
from ist_jax.core.partition import Partition, uneven_groups
from ist_jax.core.placement import AXIS, Placement, vmapped
from ist_jax.core.sample_order import View, draw, of_one_device
from ist_jax.core.subnet import label_axes
from ist_jax.core.types import Array, Batch, Indices, Key, Metrics, Params, Variables
from ist_jax.decompositions.base import Decomposition
from ist_jax.exchange import (
    Exchange,
    ExchangeFactory,
    choose_holder_sharded,
    one_device,
    over_mesh,
    storage_order,
)
from ist_jax.methods.base import Algorithm, Costs, Start, State, Worker, exchange_costs
from ist_jax.methods.local_batch import check_subnet, input_sizes, local_batch
from ist_jax.methods.optimizer_state import at_step, state_labels
from ist_jax.methods.predictor import in_order, measured
from ist_jax.tasks.base import Task

OPT_STATES = ("reset", "carry", "own")
STATE_WIRES = {
    "exact": "exact",
    "bfloat16": "state",
    "int8": "state",
}  # wire -> that of optimizer state


def _of_the_living(weight_S: Array, new_S: Any, old_S: Any) -> Any:
    """What the workers have now; a lost one, what it had before."""
    keep = lambda new, old: jnp.where(weight_S.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    return jax.tree.map(keep, new_S, old_S)


@dataclasses.dataclass(frozen=True)
class _Training:
    """The functions of `ist`, over its arguments and what follows from them."""

    decomposition: Decomposition
    task: Task
    tx: optax.GradientTransformation
    batch_size: int
    placement: Placement
    exchange: Exchange
    opt_state: str
    outer_tx: optax.GradientTransformation | None
    outer_exchange: Exchange | None

    def init(self, key: Key, start: Start | None = None) -> State:
        if start is None:
            start = Start(
                self.decomposition.init(named_key(key, "init")), None, jnp.zeros((), jnp.int32)
            )
        indices = self.decomposition.partition.first()
        store = self.exchange.init((start.params, self._carried(start)))
        own_S = ()
        if self.opt_state == "own":
            own_S = self._stacked(
                self._new_opt_states(self.exchange.pull(store, indices)[0], start.step)
            )
        outer_state = self.outer_tx.init(store[0]) if self.outer_tx else ()
        # + 0: an array of its own, for the state is donated and `start` may live on
        return self._placed(
            State(store, own_S, outer_state, indices, start.step + 0, jnp.zeros((), jnp.int32))
        )

    def _new_opt_states(self, params_S: Params, step: Array) -> Any:
        return jax.vmap(lambda params: at_step(self.tx.init(params), step))(params_S)

    def _carried(self, start: Start) -> Any:
        if self.opt_state != "carry":
            return ()
        return (
            at_step(self.tx.init(start.params), start.step)
            if start.opt_state is None
            else start.opt_state
        )

    def _stacked(self, tree_S: Any) -> Any:
        """Lays a stacked tree along the mesh, as the placement takes it."""
        if self.placement.mesh is None:
            return tree_S
        return jax.lax.with_sharding_constraint(
            tree_S, NamedSharding(self.placement.mesh, PartitionSpec(AXIS))
        )

    def _placed(self, state: State) -> State:
        """Replicates what neither the exchange nor the placement lays out, so that rounds keep their shardings."""
        if self.placement.mesh is None:
            return state
        fix = lambda tree: jax.lax.with_sharding_constraint(
            tree, self.placement.replicated_sharding
        )
        outer_state = state.outer_state
        if self.outer_tx is not None:  # lies as the parameters do
            lay, shardings = jax.lax.with_sharding_constraint, self.exchange.shardings[0]
            outer_state = optax.tree_utils.tree_map_params(
                self.outer_tx, lay, outer_state, shardings, transform_non_params=fix
            )
        return State(
            state.store,
            state.opt_state,
            outer_state,
            fix(state.indices),
            fix(state.step),
            fix(state.position),
        )

    def round(
        self, state: State, view: View, key: Key, weight_S: Array, *, steps: int
    ) -> tuple[State, Metrics]:
        indices = self.decomposition.partition.sample(named_key(key, "partition"), state.indices)
        state = self._moved(state, indices, named_key(key, "move"))
        pulled_S = self.exchange.pull(state.store, indices)
        own_S = (
            pulled_S[0],
            self._opt_states(state, pulled_S),
            dict(indices),
            jnp.arange(weight_S.shape[0]),
        )
        train = self.placement(functools.partial(self._train, steps))
        params_S, opt_S, loss_SxJ = train((view, named_key(key, "local"), state.position), own_S)
        pushed_S = (params_S, opt_S if self.opt_state == "carry" else ())
        store = self.exchange.push(
            state.store, pulled_S, pushed_S, indices, weight_S, named_key(key, "push")
        )
        store, outer_state = self._outer_step(state, store)
        own_opt_S = (
            self._stacked(_of_the_living(weight_S, opt_S, state.opt_state))
            if self.opt_state == "own"
            else ()
        )
        position = state.position + steps * self.batch_size
        state = State(store, own_opt_S, outer_state, indices, state.step + steps, position)
        return self._placed(state), {"loss_SxJ": loss_SxJ}

    def _moved(self, state: State, indices: Indices, key: Key) -> State:
        """What rests with the holders of its units, laid for their next holders."""
        store = self.exchange.repartition(state.store, state.indices, indices, key)
        outer_state = state.outer_state
        if self.outer_exchange is not None:
            outer_state = self.outer_exchange.repartition(outer_state, state.indices, indices, key)
        return state._replace(store=store, outer_state=outer_state, indices=indices)

    def _opt_states(self, state: State, pulled_S: tuple[Params, Any]) -> Any:
        params_S, carried_S = pulled_S
        if self.opt_state == "reset":
            return self._new_opt_states(params_S, state.step)
        return carried_S if self.opt_state == "carry" else state.opt_state

    def _train(
        self, steps: int, shared: tuple[View, Key, Array], own: tuple[Params, Any, Indices, Array]
    ) -> Any:
        """`steps` local steps of one subnetwork, alone."""
        view, key, position = shared
        params, opt_state, indices, worker = own
        worker_key = jax.random.fold_in(key, worker)

        def step(carry: tuple[Params, Any], j: Array) -> tuple[tuple[Params, Any], Array]:
            params, opt_state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(worker_key, j))
            index_B = draw(view, worker, position + j * self.batch_size, self.batch_size)
            batch = local_batch(
                self.decomposition, self.task.batch(view.arrays, index_B, batch_key), indices
            )
            apply = self.decomposition.subnet.apply
            loss = lambda params: self.task.loss(apply, {"params": params}, batch, loss_key)
            (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = self.tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, opt_state), loss_J = jax.lax.scan(step, (params, opt_state), jnp.arange(steps))
        return params, opt_state, loss_J

    def one_worker(self, state: State) -> Worker:
        pulled_S = self.exchange.pull(state.store, state.indices)
        own_S = (pulled_S[0], self._opt_states(state, pulled_S), dict(state.indices))
        return Worker(*jax.tree.map(lambda leaf_S: leaf_S[0], own_S), jnp.int32(0), state.position)

    def one_step(self, worker: Worker, view: View, key: Key, *, steps: int = 1) -> Any:
        return self._train(steps, (of_one_device(view), key, worker.position), worker[:4])

    def _outer_step(self, state: State, store: Any) -> tuple[Any, Any]:
        """Douillard et al., Algorithm 1: the outer optimizer on what the round changed."""
        if self.outer_tx is None:
            return store, state.outer_state
        old, merged = state.store[0], store[0]
        pseudo_gradient = jax.tree.map(jnp.subtract, old, merged)
        updates, outer_state = self.outer_tx.update(pseudo_gradient, state.outer_state, old)
        return (optax.apply_updates(old, updates), store[1]), outer_state

    def params(self, state: State) -> Params:
        return self.exchange.params(state.store, state.indices)[0]

    def end(self, state: State) -> Start:
        params, opt_state = self.exchange.params(state.store, state.indices)
        return Start(params, opt_state if self.opt_state == "carry" else None, state.step)

    def variables(self, state: State, sample: Batch | None) -> Variables:
        """The whole model as its units lie, which is the same function, and no device holds all of it."""
        model, inputs = self._evaluated, {}
        if model is None:
            params = in_order(self.decomposition, self.exchange, state, self.placement.mesh)
            return {
                "variables": measured(self.decomposition.full, self.task, params, sample),
                "inputs": {},
            }
        params = self.exchange.stored_params(state.store, state.indices)[0]
        units = storage_order(self.decomposition.partition, state.indices)
        inputs = {group: units[group] for group in input_sizes(self.decomposition)}
        seen = None if sample is None else local_batch(self.decomposition, sample, inputs)
        return {"variables": measured(model, self.task, params, seen), "inputs": inputs}

    @property
    def _evaluated(self) -> nn.Module | None:
        """The model that is evaluated as it lies, None if there is none for it."""
        parts = self.decomposition.partition
        if not self.exchange.synchronises or (self.decomposition.ordered and parts.sizes):
            return None
        return (
            self.decomposition.padded
            if uneven_groups(parts.sizes, parts.num_subnets)
            else self.decomposition.full
        )

    def predict(self, variables: Variables, batch: Batch) -> Array:
        seen = (
            local_batch(self.decomposition, batch, variables["inputs"])
            if variables["inputs"]
            else batch
        )
        model = self._evaluated or self.decomposition.full
        return self.task.logits(model.apply, variables["variables"], seen)

    def subnet_variables(self, state: State, sample: Batch | None) -> Variables:
        def one(sample: Batch | None, own: tuple[Params, Indices]) -> Any:
            params, indices = own
            own_sample = (
                None if sample is None else local_batch(self.decomposition, sample, indices)
            )
            return measured(self.decomposition.subnet, self.task, params, own_sample)

        params_S = self.exchange.pull(state.store, state.indices)[0]
        indices = dict(state.indices)
        return {"variables": self.placement(one)(sample, (params_S, indices)), "indices": indices}

    def subnet_predict(self, variables_S: Variables, batch: Batch) -> Array:
        def one(batch: Batch, own: Any) -> Array:
            seen = local_batch(self.decomposition, batch, own["indices"])
            return self.task.logits(self.decomposition.subnet.apply, own["variables"], seen)

        return self.placement(one)(batch, variables_S)

    def algorithm(self, costs: Costs) -> Algorithm:
        return Algorithm(
            init=self.init,
            round=jax.jit(self.round, static_argnames="steps", donate_argnums=0),
            variables=self.variables,
            predict=self.predict,
            subnet_variables=self.subnet_variables,
            subnet_predict=self.subnet_predict,
            one_worker=self.one_worker,
            one_step=self.one_step,
            params=self.params,
            end=self.end,
            num_workers=self.decomposition.num_subnets,
            batch_size=self.batch_size,
            costs=costs,
            sharding=self.placement.replicated_sharding,
            partition=self.decomposition.partition,
        )


def drawn(parts: Partition, seed: int, rounds: int) -> list[Indices]:
    """The partitions of the first rounds of a run with this seed, without training; `parts` is `Algorithm.partition`."""
    indices, found = parts.first(), []
    for round in range(rounds):
        key = named_key(jax.random.fold_in(jax.random.key(seed), round), "partition")
        indices = parts.sample(key, indices)
        found.append(indices)
    return found


def _check_options(parts: Partition, opt_state: str, wire: str) -> None:
    if wire not in STATE_WIRES:
        raise ValueError(f"wire is one of {tuple(STATE_WIRES)}, not {wire!r}")
    if opt_state not in OPT_STATES:
        raise ValueError(f"opt_state is one of {OPT_STATES}, not {opt_state!r}")
    if opt_state == "own" and parts.sizes and parts.name != "fixed":
        raise ValueError(
            "opt_state='own' stays with the worker while its units move on: use 'reset' or 'carry'"
        )


def ist(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
    exchange: ExchangeFactory | None = None,
    opt_state: str = "reset",
    outer_tx: optax.GradientTransformation | None = None,
    resident: bool = False,
    wire: str = "exact",
) -> Algorithm:
    """Independent subnetwork training of `decomposition.num_subnets` subnetworks.

    Args:
      decomposition: how the model falls apart; one without groups makes this local SGD.
      task: loss, batch and metrics.
      tx: the local optimizer. Its learning-rate schedule runs on the global step.
      batch_size: examples of one local step of one subnetwork.
      placement: where subnetworks train; default vmapped on one device. Convolutional ones are faster `looped()`, also inside
        of `sharded`: as a batch, kernels of their own are one slow grouped convolution.
      exchange: factory of the exchange; default `over_mesh` on a mesh, otherwise `one_device`.
      opt_state: 'reset' starts the optimizer anew every round (the authors' releases); 'carry' moves its state
        with the units (averaged where several hold them; an entry held 1/S of the time then has an
        under-corrected second moment); 'own' leaves it with the worker, whose units then must not change.
      outer_tx: applied to params - merged after every round; None writes the merged parameters. Outer
        momentum also moves entries that nobody trained in the round.
      resident: whether the units of all groups come home after every round, which sends them twice; by default only
        those of the groups in `exchange.choose_home_sharded` do, and the others go from holder to holder.
      wire: how units are sent, see `exchange.codecs`: 'exact', or rounded: 'bfloat16', 'int8' (optimizer state then goes
        as bfloat16). Leaves without a group are averaged exactly.

    Raises:
      ValueError: an option outside its values, labels or rules that do not fit, or a partition that a mesh refuses.
    """
    placement = placement or vmapped()
    _check_options(decomposition.partition, opt_state, wire)
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    check_subnet(decomposition, labels, shapes)
    exchanged, kept = ((labels, ()), (shapes, ())), ((), ())
    if opt_state == "carry":
        exchanged = (
            (labels, state_labels(tx, labels, shapes)),
            (shapes, jax.eval_shape(tx.init, shapes)),
        )
    if outer_tx is not None:
        kept = state_labels(outer_tx, labels, shapes), jax.eval_shape(outer_tx.init, shapes)
    parts = decomposition.partition
    parts = parts.with_holder_sharded(()) if resident else choose_holder_sharded(parts, *exchanged, kept)
    wires = (wire, STATE_WIRES[wire])
    make = exchange or (
        functools.partial(over_mesh, mesh=placement.mesh) if placement.mesh else one_device
    )
    sent = lambda tree, wires: make(*tree, parts, **({} if wire == "exact" else {"compressions": wires}))
    moves, outer_moves = sent(exchanged, wires), None
    if outer_tx is not None:
        if not moves.synchronises:
            raise ValueError(
                "an outer optimizer acts on what was exchanged, and these subnetworks never meet: outer_tx=None"
            )
        outer_moves = sent(kept, wires[1])
    decomposition = decomposition._replace(partition=parts)
    training = _Training(
        decomposition, task, tx, batch_size, placement, moves, opt_state, outer_tx, outer_moves
    )
    return training.algorithm(
        exchange_costs(labels, shapes, exchanged, kept, parts, moves.synchronises, wires)
    )
