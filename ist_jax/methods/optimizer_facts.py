"""What the leaves of an optimizer's state are.

A leaf may belong to a parameter, as a moment does. A leaf that belongs to none is a *clock* if it
depends only on the number of steps, as Adam's count does. A clock is equal in all workers. All
other leaves depend on gradients. `inspect` traces the optimizer to find out. It uses the names of
states only where the trace does not tell.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from ist_jax.core.dependence import depends
from ist_jax.core.errors import first_line
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array, Params

_SIMULATED = 4096  # steps; longer periods are not detected
# state -> its field that counts the steps of a schedule
_SCHEDULED = {
    "ScaleByScheduleState": "count",
    "WeightDecaySchedule": "count",
    "WrappedScheduleState": "count",
    "InjectHyperparamsState": "count",
    "InjectStatefulHyperparamsState": "count",
    "MultiStepsState": "gradient_step",
    "ConditionallyTransformState": "step",
    "ConditionallyMaskState": "step",
}


@dataclasses.dataclass(frozen=True, eq=False)
class StateFacts:
    """What is known about an optimizer's state.

    Attributes:
      tx: the optimizer.
      params: the shapes of the parameters.
      state: the shapes of its state. Tuples among the attributes have an entry for each leaf of it.
      number: the number of the leaf's parameter, or -1 without one.
      is_clock: whether the leaf depends only on the number of steps.
      is_schedule: whether its name says that it counts the steps of a schedule.
      is_apart: whether it is a count, and only clocks are beside it. Such a count is a schedule's.
        A count beside moments counts their updates, as Adam's does.
      is_alone: for a leaf with `is_schedule`, whether its next value depends on no other leaf.
      holds_params: whether the initial state has values of the parameters.
    """

    tx: optax.GradientTransformation
    params: Params
    state: Any
    number: tuple[int, ...]
    is_clock: tuple[bool, ...]
    is_schedule: tuple[bool, ...]
    is_apart: tuple[bool, ...]
    is_alone: tuple[bool, ...]
    holds_params: bool

    @property
    def names(self) -> list[str]:
        """Names of the leaves, such as '0/count'."""
        return leaf_names(self.state)

    def nodes(self) -> list[str]:
        """The class names of the nested states."""
        return [type(node).__name__ for _, node in _nodes(self.state)]

    def tree(self, values: Any) -> Any:
        """`values`, one for each leaf, as a tree like the state."""
        return jax.tree.structure(self.state).unflatten(values)

    @functools.cached_property
    def rates(self) -> tuple[int, ...]:
        """For every leaf that counts a schedule's steps, the local steps per step of the schedule.

        0: the leaf is not such a count. -1: the number of local steps is not fixed.
        """
        return tuple(map(self._rate, range(len(self.number))))

    def _rate(self, leaf: int) -> int:
        is_schedule = self.is_schedule[leaf]
        if not (is_schedule or self.is_apart[leaf]):
            return 0
        if is_schedule and not self.is_clock[leaf]:  # MultiSteps may skip steps by gradients
            return -1 if self.names[leaf].endswith("gradient_step") else 1
        if is_schedule and self.is_alone[leaf]:
            return 1
        count_T = self._simulated[leaf] - self._simulated[leaf][0]
        steps = np.flatnonzero(count_T)
        rate = int(steps[0]) if len(steps) else 0
        if rate and (count_T == np.arange(len(count_T)) // rate).all():
            return rate
        return -1 if is_schedule else 0

    @functools.cached_property
    def period(self) -> int | None:
        """The number of local steps over which gradients are accumulated; None: it varies.

        After so many steps, counts such as that of `optax.MultiSteps` are back where they started.
        """
        counts = (count_T for leaf, count_T in self._simulated.items() if not self.rates[leaf])
        periods = list(map(_period, counts))
        known = [period for period in periods if period is not None]
        return math.lcm(*known) if len(known) == len(periods) else None

    @functools.cached_property
    def _simulated(self) -> dict[int, np.ndarray]:
        """Leaf -> int[T + 1], the values of a count: at first, and after each of T steps."""
        clocks = [leaf for leaf, is_clock in enumerate(self.is_clock) if is_clock]
        counts = [leaf for leaf in clocks if _is_count(jax.tree.leaves(self.state)[leaf])]
        if not counts:
            return {}
        params, state = self._small_shapes()
        zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
        pick = lambda leaves, chosen: [leaves[leaf] for leaf in chosen]

        def step(values: list[Array], _: Any) -> tuple[list[Array], list[Array]]:
            given = iter(values)  # clocks do not depend on the other leaves
            leaves = [
                next(given) if is_clock else zeros(leaf)
                for is_clock, leaf in zip(self.is_clock, jax.tree.leaves(state))
            ]
            after = self.tx.update(zeros(params), self.tree(leaves), zeros(params))[1]
            leaves = jax.tree.leaves(after)
            return pick(leaves, clocks), pick(leaves, counts)

        @jax.jit
        def run() -> tuple[list[Array], list[Array]]:
            first = jax.tree.leaves(self.tx.init(zeros(params)))
            _, later = jax.lax.scan(step, pick(first, clocks), length=_SIMULATED)
            return pick(first, counts), later

        with jax.ensure_compile_time_eval():  # also while a round is traced
            first, later = jax.device_get(run())
        return {leaf: np.append(*values) for leaf, *values in zip(counts, first, later)}

    def _small_shapes(self) -> tuple[Params, Any]:
        """(parameters, state): shapes with the same clocks, where a parameter has one entry.

        If the optimizer does not accept them, the actual shapes.
        """
        one_entry = lambda leaf: jax.ShapeDtypeStruct((1,) * len(leaf.shape), leaf.dtype)
        params = jax.tree.map(one_entry, self.params)
        try:
            _, state, _, _ = _traced(self.tx, params)
        except ValueError:
            return self.params, self.state
        is_alike = jax.tree.structure(state) == jax.tree.structure(self.state)
        return (params, state) if is_alike else (self.params, self.state)


def _period(count_T: np.ndarray) -> int | None:
    """The number of steps after which a count repeats itself from its first value.

    1: it never leaves that value, or never returns to it. None: it returns, but not periodically.
    """
    is_first = count_T == count_T[0]
    left = int(np.argmin(is_first))  # 0 if it never leaves
    back = left + int(np.argmax(is_first[left:]))
    if left == 0 or not is_first[back]:
        return 1
    return back if (count_T[back:] == count_T[:-back]).all() else None


def _is_count(leaf: Any) -> bool:
    return leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.integer)


def _nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, node) for every node and leaf of a tree, the tree itself first."""
    yield path, tree
    for key, child in tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]:
        if child is not tree:
            yield from _nodes(child, path + key)


def parameter_numbers(state: Any, params: Params) -> list[int]:
    """For every leaf of `state`, the number of its parameter; -1 without one.

    The path of a moment ends with the path of its parameter.
    """
    numbers = {path: number for number, (path, _) in enumerate(tree_flatten_with_path(params)[0])}

    def number(path: tuple[Any, ...]) -> int:
        ends = (path[start:] for start in range(len(path)))
        return next((numbers[end] for end in ends if end in numbers), -1)

    return [number(path) for path, _ in tree_flatten_with_path(state)[0]]


def _schedules(state: Any) -> list[bool]:
    """For every leaf, whether its name says that it counts the steps of a schedule."""
    named = {
        (*path, GetAttrKey(_SCHEDULED[type(node).__name__]))
        for path, node in _nodes(state)
        if type(node).__name__ in _SCHEDULED
    }
    return [path in named for path, _ in tree_flatten_with_path(state)[0]]


def _apart(state: Any, is_clock: Sequence[bool]) -> list[bool]:
    """For every leaf, whether it is a count, and only clocks are beside it."""
    paths = [path for path, _ in tree_flatten_with_path(state)[0]]

    def only_clocks(above: tuple[Any, ...]) -> bool:
        return all(clock for path, clock in zip(paths, is_clock) if path[: len(above)] == above)

    counts = map(_is_count, jax.tree.leaves(state))
    return [is_count and only_clocks(path[:-1]) for path, is_count in zip(paths, counts)]


def inspect(tx: optax.GradientTransformation, params: Params) -> StateFacts:
    """The facts about the state of `tx` over `params` (arrays or ShapeDtypeStructs).

    Raises:
      ValueError: the optimizer needs more than gradients, state and parameters, or a step changes
        the shapes of the state or of the parameters.
    """
    leaves, treedef = jax.tree.flatten(params)
    given = (tx, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    try:
        hash(tx)
    except TypeError:
        return _inspect.__wrapped__(*given)
    return _inspect(*given)


def _form(tree: Any) -> Any:
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _traced(tx: optax.GradientTransformation, params: Params) -> tuple[Any, Any, Any, Any]:
    """(trace of init, shapes of the state, trace of update, shapes of the updates)."""
    try:
        start, state = jax.make_jaxpr(tx.init, return_shape=True)(params)
        update, results = jax.make_jaxpr(tx.update, return_shape=True)(params, state, params)
    except Exception as error:  # whatever the optimizer raises
        raise ValueError(
            "an optimizer takes gradients, its state and parameters, and this one fails on them "
            f"({type(error).__name__}: {first_line(error)}): use one without further arguments"
        ) from error
    updates, after = results
    shapes = lambda tree: (jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)])
    if _form(after) != _form(state) or shapes(updates) != shapes(params):
        raise ValueError(
            "a step of an optimizer keeps the shapes of its state and of the parameters, and this "
            "one's does not: leave out what measures updates or takes gradients of single examples"
        )
    return start, state, update, updates


@functools.lru_cache(maxsize=256)
def _inspect(tx: optax.GradientTransformation, treedef: Any, described: Any) -> StateFacts:
    params = treedef.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in described])
    start, state, update, updates = _traced(tx, params)
    numbers, size = parameter_numbers(state, params), len(described)
    from_params = depends(start, [True] * size)

    def reached(given: Sequence[bool]) -> list[bool]:
        """Which leaves of the next state depend on `given` leaves, gradients or parameters."""
        every = [True] * size
        return depends(update, [*every, *given, *every])[len(jax.tree.leaves(updates)) :]

    def is_alone(leaf: int) -> bool:
        return not reached([other != leaf for other in range(len(numbers))])[leaf]

    moving = [number >= 0 or moves for number, moves in zip(numbers, from_params)]
    while (more := [a or b for a, b in zip(moving, reached(moving))]) != moving:
        moving = more
    is_clock, is_schedule = [not moves for moves in moving], _schedules(state)
    return StateFacts(
        tx,
        params,
        state,
        number=tuple(numbers),
        is_clock=tuple(is_clock),
        is_schedule=tuple(is_schedule),
        is_apart=tuple(_apart(state, is_clock)),
        is_alone=tuple(named and is_alone(leaf) for leaf, named in enumerate(is_schedule)),
        holds_params=any(n >= 0 and moves for n, moves in zip(numbers, from_params)),
    )
