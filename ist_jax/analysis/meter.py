"""Costs of a run, measured on its compiled programs. `costs` computes them instead."""

import functools
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage]  # in newer JAX, a name of Jaxpr
    Jaxpr,
    jaxpr_as_fun,
)

from ist_jax.analysis import hlo
from ist_jax.analysis.machine import check_fits, fits
from ist_jax.core.processes import any_process
from ist_jax.core.sample_order import View
from ist_jax.core.trees import tree_bytes
from ist_jax.core.types import Array, Key
from ist_jax.methods import Method, State

Seconds = float
_REPEATS = 3
TIMED_SYNCS = 1 + _REPEATS  # the first is a warm-up


class Programs:
    """Compiled programs by name. Each is compiled once, and before it first runs."""

    def __init__(self):
        self._compiled: dict[Any, Any] = {}
        self._sent: dict[Any, float | None] = {}

    def get(self, name: Any, function: Any, *args: Any, **static: Any) -> Any:
        """The compiled program called `name`."""
        if name not in self._compiled:
            self._compiled[name] = function.lower(*args, **static).compile()
        return self._compiled[name]

    def bytes_sent(self, name: Any, method: Method) -> float | None:
        """`bytes_sent` of the compiled program called `name`, whose text is parsed only once."""
        if name not in self._sent:
            self._sent[name] = bytes_sent(method, self._compiled[name])
        return self._sent[name]


def bytes_sent(method: Method, program: Any) -> float | None:
    """Bytes that one device sends in one run of `program` on the devices of the method.

    None if the program's text cannot be parsed, or if workers share a device: some bytes then never
    leave it.
    """
    devices = len(method.info.sharding.device_set)
    if devices != method.info.num_workers:
        return None
    if devices == 1:
        return 0.0
    try:
        return hlo.bytes_sent(program.as_text())
    except ValueError:  # another backend may write collectives in another way
        return None


def _mean_over_cycle(method: Method, values: Mapping[int, float]) -> float:
    """The mean over the rounds of the method's cycle of a value for each of its programs."""
    cycle = range(len(method.info.turns))
    return statistics.fmean(values[method.turn(number)] for number in cycle)


def compiled_bytes_per_sync(
    method: Method, sent: Mapping[int, float | None], steps: int
) -> float | None:
    """Bytes that one device sends in a synchronisation, the mean over the method's cycle.

    Args:
      method: its `programs` are measured.
      sent: for each of them, the result of `bytes_sent`.
      steps: the local steps of its rounds.
    """
    known = {turn: each for turn, each in sent.items() if each is not None}
    if len(known) < len(sent):
        return None
    return _mean_over_cycle(method, known) / method.info.costs.syncs(steps)


def bytes_of_timing(sent: Mapping[int, float | None]) -> float | None:
    """Bytes that one device sends during `seconds_per_sync`.

    Args:
      sent: as in `compiled_bytes_per_sync`.
    """
    every = [each for each in sent.values() if each is not None]
    return TIMED_SYNCS * sum(every) if len(every) == len(sent) else None


def flops_per_local_step(method: Method, state: State, view: View, key: Key) -> float | None:
    """Floating-point operations of one local step of one worker.

    XLA counts them before optimisation. None if the backend does not count them.
    """
    given = _on_no_device((state, view, key))
    program = jax.make_jaxpr(functools.partial(method.local_steps, steps=1))(*given)
    *_, loop = _scans(program.jaxpr)  # the loop over steps is the last one (`Method.local_steps`)
    given = _on_no_device([variable.aval for variable in loop.invars])
    alone = jax.make_jaxpr(lambda *given: loop.primitive.bind(*given, **loop.params))(*given)
    return _flops(alone) or None


def _on_no_device(tree: Any) -> Any:
    """The shapes of a tree, without shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _flops(program: ClosedJaxpr) -> float | None:
    """FLOPs of a program. XLA counts a loop's body once; this counts every iteration."""
    total = _counted(program)
    if total is None:
        return None
    for loop in _scans(program.jaxpr):
        body = loop.params["jaxpr"]
        total += loop.params["length"] * _flops(body) - _counted(body)
    return total


def _counted(program: ClosedJaxpr) -> float | None:
    given = _on_no_device(program.in_avals)
    costs = jax.jit(jaxpr_as_fun(program)).lower(*given).cost_analysis()
    return None if costs is None else float(costs.get("flops", 0))  # no entry means 0


def _scans(program: Any) -> Iterator[Any]:
    """The outermost scans in order, also those inside calls."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for part in jax.tree.leaves(
            equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield from _scans(getattr(part, "jaxpr", part))


def training_bytes(method: Method, state: State) -> int:
    """Bytes of the parameters, gradients and optimizer states of one device's workers."""
    worker = jax.eval_shape(method.first_worker, state)
    per_worker = 2 * tree_bytes(worker.params) + tree_bytes(worker.opt_state)
    return per_worker * method.info.num_workers // len(method.info.sharding.device_set)


def _bytes_on_one_device(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def memory_bytes(method: Method, program: Any, state: State, view: View) -> dict[str, float] | None:
    """The memory of one device while `program`, a round, runs.

    Returns:
      None if the backend does not report it; otherwise bytes:
        'state': parameters, optimizer state and indices between rounds.
        'data': the data set.
        'temporary': subnetworks, their gradients and optimizer states, and activations.
        'activations': 'temporary' without `training_bytes`; it includes the compiler's copies. It
          is a lower bound, since a program may reuse the memory of its arguments.
        'peak': everything, except data that only evaluation uses.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    arguments = analysis.argument_size_in_bytes
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporary = analysis.temp_size_in_bytes
    return {
        "peak": arguments + results + temporary,
        "state": _bytes_on_one_device(state.stored),
        "data": _bytes_on_one_device(view.arrays),
        "temporary": temporary,
        "activations": max(0, temporary - training_bytes(method, state)),
    }


def seconds_per_sync(
    method: Method, state: State, view: View, key: Key, weight_S: Array
) -> Seconds | None:
    """Seconds of one synchronisation on this machine: a round without local steps.

    The mean over the method's cycle. It runs on a copy of `state`. None if nothing is exchanged, if
    every step synchronises, or if the copy does not fit into memory.
    """
    if method.info.costs.steps_per_sync is not None or not method.info.costs.bytes_per_sync:
        return None
    try:
        given = (state, view, key, weight_S)
        seconds = {turn: _median_of_syncs(method, turn, *given) for turn in method.programs}
    except JaxRuntimeError:
        if jax.process_count() > 1:  # the other processes would wait forever
            raise
        return None
    known = {turn: each for turn, each in seconds.items() if each is not None}
    return _mean_over_cycle(method, known) if len(known) == len(seconds) else None


def _median_of_syncs(
    method: Method, turn: int, state: State, view: View, key: Key, weight_S: Array
) -> Seconds | None:
    program = method.round.lower(state, view, key, weight_S, steps=0, turn=turn).compile()
    memory = memory_bytes(method, program, state, view) or {"peak": 0, "state": 0}
    if any_process(not fits(memory["peak"] + memory["state"], method.info.sharding.device_set)):
        return None
    copy, seconds = jax.tree.map(jnp.copy, state), []
    for _ in range(TIMED_SYNCS):
        began = time.perf_counter()
        copy, _ = jax.block_until_ready(program(copy, view, key, weight_S))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure_round(
    method: Method,
    programs: Mapping[int, Any],
    sent: Mapping[int, float | None],
    state: State,
    view: View,
    key: Key,
    steps: int,
) -> dict[str, Any]:
    """The costs of a round of `steps` local steps by its compiled programs, ready for JSON.

    Args:
      method: the method.
      programs: position in the method's cycle -> compiled program, for each of `method.programs`.
      sent: for each of them, the result of `bytes_sent`.
      state: before a round.
      view: the data of the round.
      key: the round's key.
      steps: local steps of the round.

    Raises:
      MemoryError: CPU devices need more memory than the host has.
    """
    known = [memory_bytes(method, program, state, view) for program in programs.values()]
    memory = max((each for each in known if each), key=lambda each: each["peak"], default=None)
    check_fits((memory or {}).get("peak", 0), method.info.sharding.device_set)
    return {
        "bytes_per_sync": compiled_bytes_per_sync(method, sent, steps),
        "flops_per_local_step": flops_per_local_step(method, state, view, key),
        "memory": memory,
    }
