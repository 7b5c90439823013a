"""Finds the axes of a function's arguments that its matrix products and convolutions sum over."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal


class Axis(NamedTuple):
    """An axis of a leaf of the arguments; leaves are numbered as in `jax.tree.leaves`."""

    leaf: int
    axis: int


# for each dimension of a value, the argument axes in it; None: not just a rearranged argument
_View = tuple[frozenset[Axis], ...] | None


class Uses(NamedTuple):
    """How a function uses the axes of its first argument.

    Attributes:
      contracted: the axes that a matrix product or convolution sums over.
      kept: the axes that some operation keeps, or uses in a way that is not analysed.
    """

    contracted: set[Axis]
    kept: set[Axis]


def contractions(function: Callable[..., Any], arrays: Any, *others: Any) -> Uses:
    """How `function(arrays, *others)` uses each axis of `arrays`.

    Calls, loops and conditionals are followed, as are casts, transposes and reshapes of an argument
    before its product. An array is not followed beyond an entrywise operation with another array.

    Args:
      function: is traced, not computed.
      arrays: a pytree of arrays or ShapeDtypeStructs.
      *others: further arguments, whose axes are not followed.
    """
    jaxpr = jax.make_jaxpr(function)(arrays, *others).jaxpr
    views: list[_View] = [
        tuple(frozenset([Axis(number, axis)]) for axis in range(len(leaf.shape)))
        for number, leaf in enumerate(jax.tree.leaves(arrays))
    ]
    uses = Uses(set(), set())
    _follow(jaxpr, [*views, *[None] * (len(jaxpr.invars) - len(views))], uses)
    return uses


def _follow(jaxpr: Any, given: Sequence[_View], uses: Uses) -> list[_View]:
    """Adds how a jaxpr uses its inputs `given` to `uses`; returns the views of its outputs."""
    views = {var: view for var, view in zip(jaxpr.invars, given) if view is not None}
    read = lambda atom: None if isinstance(atom, Literal) else views.get(atom)
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if any(view is not None for view in inputs):
            outputs = _RULES.get(equation.primitive.name, _other)(equation, inputs, uses)
            views |= {v: view for v, view in zip(equation.outvars, outputs) if view is not None}
    return [read(atom) for atom in jaxpr.outvars]


def _note(view: _View, contracted: Sequence[int], uses: Uses) -> None:
    """Adds a use of a value that sums over the dimensions `contracted` and keeps the others."""
    for dimension, axes in enumerate(view or ()):
        (uses.contracted if dimension in contracted else uses.kept).update(axes)


def _dot(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    contracted, _ = equation.params["dimension_numbers"]
    for view, dimensions in zip(inputs, contracted):
        _note(view, dimensions, uses)
    return []


def _convolution(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    numbers = equation.params["dimension_numbers"]
    for view, spec in zip(inputs, (numbers.lhs_spec, numbers.rhs_spec)):
        _note(view, spec[1:2], uses)  # features of the input
    return []


def _transpose(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    axes = _axes(inputs[0])
    return [tuple(axes[dimension] for dimension in equation.params["permutation"])]


def _broadcast(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    axes = dict(zip(equation.params["broadcast_dimensions"], _axes(inputs[0])))
    return [tuple(axes.get(d, frozenset[Axis]()) for d in range(len(equation.params["shape"])))]


def _reshape(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    """A merged or split dimension has the axes of every dimension that it comes from."""
    axes, shapes = _axes(inputs[0]), [v.aval.shape for v in (equation.invars[0], *equation.outvars)]
    merged = lambda sources: frozenset[Axis]().union(*(axes[d] for d in sources))
    return [tuple(map(merged, _sources(*shapes)))]


def _axes(view: _View) -> tuple[frozenset[Axis], ...]:
    return view or ()


def _sources(old: Sequence[int], new: Sequence[int]) -> list[set[int]]:
    """For each dimension of the shape `new`, the dimensions of `old` that it comes from."""
    strides = lambda shape: [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    spans = lambda shape: [(stride, stride * n) for stride, n in zip(strides(shape), shape)]
    meets = lambda a, b: max(a[0], b[0]) < min(a[1], b[1])
    return [{d for d, span in enumerate(spans(old)) if meets(span, mine)} for mine in spans(new)]


def _call(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    body = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    body = getattr(body, "jaxpr", body)
    if body is None or len(body.invars) != len(inputs):
        return _other(equation, inputs, uses)
    return _follow(body, inputs, uses)


def _scan(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    num_consts, num_carry = equation.params["num_consts"], equation.params["num_carry"]
    first = num_consts + num_carry  # of the arrays that are scanned along their first axis
    for view in inputs[num_consts:]:
        _note(view[:1] if view else view, (), uses)
    scanned = [view[1:] if view else None for view in inputs[first:]]
    body = equation.params["jaxpr"].jaxpr
    _follow(body, [*inputs[:num_consts], *[None] * num_carry, *scanned], uses)
    return []


def _cond(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    for branch in equation.params["branches"]:
        _follow(branch.jaxpr, inputs[1:], uses)
    return []


def _other(equation: Any, inputs: Sequence[_View], uses: Uses) -> Sequence[_View]:
    """A cast, or a product with a scalar, keeps the view of its array; other operations end it."""
    arrays = [i for i, atom in enumerate(equation.invars) if getattr(atom.aval, "shape", ()) != ()]
    if equation.primitive.name in _ENTRYWISE and len(arrays) == 1:
        return [inputs[arrays[0]]]
    for view in inputs:
        _note(view, (), uses)
    return []


_ENTRYWISE = ("convert_element_type", "mul", "div", "neg", "copy", "reduce_precision")
_RULES: dict[str, Callable[[Any, Sequence[_View], Uses], Sequence[_View]]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "scan": _scan,
    "cond": _cond,
}
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
_CALLS += ("custom_jvp_call", "custom_vjp_call")
_RULES |= dict.fromkeys(_CALLS, _call)
