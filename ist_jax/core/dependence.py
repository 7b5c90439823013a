"""Which outputs of a traced function depend on which of its inputs."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Literal

_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")


def depends(jaxpr: Any, given: Sequence[bool]) -> list[bool]:
    """For every output, whether it depends on at least one of the `given` inputs.

    Calls and the branches of conditionals are followed equation by equation. Every output of a
    loop counts as depending on every input of it.

    Args:
      jaxpr: from `jax.make_jaxpr`.
      given: for every input, whether dependence on it counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # a closed one holds it and constants
    marked = {variable for variable, is_given in zip(jaxpr.invars, given) if is_given}
    is_marked = lambda atom: not isinstance(atom, Literal) and atom in marked
    for equation in jaxpr.eqns:
        outputs = _outputs(equation, [is_marked(atom) for atom in equation.invars])
        marked.update(variable for variable, does in zip(equation.outvars, outputs) if does)
    return [is_marked(atom) for atom in jaxpr.outvars]


def _outputs(equation: Any, given: Sequence[bool]) -> list[bool]:
    """`depends` for one equation."""
    name, params = equation.primitive.name, equation.params
    if not any(given):
        return [False] * len(equation.outvars)
    if name == "cond" and not given[0]:  # the first input chooses the branch
        of_branches = [depends(branch, given[1:]) for branch in params["branches"]]
        return [any(of_output) for of_output in zip(*of_branches)]
    body = params.get("jaxpr", params.get("call_jaxpr")) if name in _CALLS else None
    if body is None or len(getattr(body, "jaxpr", body).invars) != len(given):
        return [True] * len(equation.outvars)
    return depends(body, given)
