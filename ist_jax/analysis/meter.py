"""What a run costs a device, read from its compiled programs beside the arithmetic of `costs`."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from ist_jax.analysis import hlo
from ist_jax.analysis.machine import check_fits, fits
from ist_jax.core.processes import any_process
from ist_jax.core.sample_order import View
from ist_jax.core.trees import tree_bytes
from ist_jax.core.types import Array, Key
from ist_jax.methods.base import Algorithm, State

Seconds = float
_REPEATS = 3


class Programs:
    """Compiled programs by name, so that each is compiled once, and apart from running it."""

    def __init__(self):
        self._compiled: dict[Any, Any] = {}

    def get(self, name: Any, function: Any, *args: Any, **static: Any) -> Any:
        """The compiled program called `name`."""
        if name not in self._compiled:
            self._compiled[name] = function.lower(*args, **static).compile()
        return self._compiled[name]


def compiled_bytes_per_sync(algorithm: Algorithm, program: Any, steps: int) -> float | None:
    """Bytes that one device sends in a synchronisation.

    None if workers share devices, so that some bytes never leave one, or if the program's text cannot be read.
    """
    if len(algorithm.sharding.device_set) != algorithm.num_workers:
        return None
    try:
        return hlo.bytes_sent(program.as_text()) / algorithm.costs.syncs(steps)
    except ValueError:  # a backend that writes its collectives in another way
        return None


def flops_per_local_step(algorithm: Algorithm, state: State, view: View, key: Key) -> float | None:
    """Floating-point operations of one local step of one worker; None where the backend does not count them.

    Counted by XLA on a program of this one step, before optimisation, and a loop over blocks as often as it runs.
    """
    given = (jax.eval_shape(algorithm.one_worker, state), view, key)
    on_no_device = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)
    return _flops(jax.make_jaxpr(algorithm.one_step)(*on_no_device)) or None


def _flops(program: ClosedJaxpr) -> float | None:
    """XLA counts the body of a loop once, so that for every loop, its body is taken away and put back as often as it runs."""
    total = _counted(program)
    if total is None:
        return None
    for loop in _scans(program.jaxpr):
        body = loop.params["jaxpr"]
        total += loop.params["length"] * _flops(body) - _counted(body)
    return total


def _counted(program: ClosedJaxpr) -> float | None:
    found = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals).cost_analysis()
    return (
        None if found is None else float(found.get("flops", 0))
    )  # of what has none, it names none


def _scans(program: Jaxpr) -> Iterator[Any]:
    """The outermost loops of a known length, also inside of calls."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for part in jax.tree.leaves(
            equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield from _scans(getattr(part, "jaxpr", part))


def worked_on_bytes(algorithm: Algorithm, state: State) -> int:
    """Parameters, gradients and optimizer state of the workers of one device, by their shapes."""
    worker = jax.eval_shape(algorithm.one_worker, state)
    of_one = 2 * tree_bytes(worker.params) + tree_bytes(worker.opt_state)
    return of_one * algorithm.num_workers // len(algorithm.sharding.device_set)


def memory_bytes(
    algorithm: Algorithm, program: Any, state: State, view: View
) -> dict[str, float] | None:
    """What one device of this machine holds while `program`, a round, runs; None where the backend does not say.

    'state' is what rests between rounds: parameters, optimizer state and indices; 'data' the data set; 'temporary' what
    is worked on: the subnetworks, their gradients and optimizer state, activations; 'activations' is what remains of that
    without `worked_on_bytes`, the compiler's copies included: a lower bound, since a program may work on what it is given where
    that lies. 'peak' is all of it, without the data that only evaluations use.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    on_one = lambda tree: sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
    )
    given, taken = (
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    )
    return {
        "peak": given + taken + analysis.temp_size_in_bytes,
        "state": on_one((state.store, state.opt_state, state.outer_state, state.indices)),
        "data": on_one(view.arrays),
        "temporary": analysis.temp_size_in_bytes,
        "activations": max(0, analysis.temp_size_in_bytes - worked_on_bytes(algorithm, state)),
    }


def seconds_per_sync(
    algorithm: Algorithm, state: State, view: View, key: Key, weight_S: Array
) -> Seconds | None:
    """Seconds of one synchronisation on this machine: of a round without local steps, on a copy of `state`.

    None if nothing is exchanged, if it is exchanged in the middle of every step, or if memory has no room for the copy.
    """
    if algorithm.costs.steps_per_sync is not None or not algorithm.costs.bytes_per_sync:
        return None
    try:
        return _median_of_syncs(algorithm, state, view, key, weight_S)
    except JaxRuntimeError:
        if jax.process_count() > 1:  # the others would wait
            raise
        return None


def _median_of_syncs(
    algorithm: Algorithm, state: State, view: View, key: Key, weight_S: Array
) -> Seconds | None:
    program = algorithm.round.lower(state, view, key, weight_S, steps=0).compile()
    memory = memory_bytes(algorithm, program, state, view) or {"peak": 0, "state": 0}
    if any_process(not fits(memory["peak"] + memory["state"], algorithm.sharding.device_set)):
        return None
    copy, seconds = jax.tree.map(jnp.copy, state), []
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        copy, _ = jax.block_until_ready(program(copy, view, key, weight_S))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measured(
    algorithm: Algorithm, program: Any, state: State, view: View, key: Key, steps: int
) -> dict[str, Any]:
    """What a round of `steps` local steps costs by its compiled program, as JSON keeps it.

    Raises:
      MemoryError: it takes more memory than the host of CPU devices has.
    """
    memory = memory_bytes(algorithm, program, state, view)
    check_fits((memory or {}).get("peak", 0), algorithm.sharding.device_set)
    return {
        "bytes_per_sync": compiled_bytes_per_sync(algorithm, program, steps),
        "flops_per_local_step": flops_per_local_step(algorithm, state, view, key),
        "memory": memory,
    }
