"""Which outputs depend on which inputs: through calls, conditionals and loops."""

import jax
import jax.numpy as jnp
import pytest

from ist_jax.core.dependence import depends


def reached(function, *given):
    """For every output, whether it depends on one of the `given` inputs (numbers)."""
    shape = jax.ShapeDtypeStruct((), jnp.int32)
    jaxpr = jax.make_jaxpr(function)(shape, shape, shape)
    return depends(jaxpr, [number in given for number in range(3)])


def plain(a, b, c):
    return a + 1, a * b, 3, jnp.where(a > 0, b, c)


def calls(a, b, c):
    return jax.jit(plain)(a, b, c)


def branches(a, b, c):
    return jax.lax.cond(a > 0, lambda: (b + 1, jnp.int32(2)), lambda: (jnp.int32(4), c * 2))


def constant_branch(a, b, c):
    return jax.lax.cond(jnp.array(False), lambda: (a + 1, b), lambda: (a, c))


def loop(a, b, c):
    return jax.lax.fori_loop(0, 3, lambda _, carry: (carry[0] + 1, carry[1] + b), (a, c))


@pytest.mark.parametrize(
    "function,given,expected",
    [
        (plain, [0], [True, True, False, True]),
        (plain, [1], [False, True, False, True]),
        (plain, [2], [False, False, False, True]),
        (calls, [1], [False, True, False, True]),
        (calls, [0, 2], [True, True, False, True]),
        (branches, [0], [True, True]),  # the input that chooses the branch
        (branches, [1], [True, False]),
        (branches, [2], [False, True]),
        (constant_branch, [1], [False, True]),
        (constant_branch, [0], [True, False]),
        (loop, [1], [True, True]),  # of a loop, all are taken to depend on all
    ],
)
def test_outputs_that_depend_on_inputs(function, given, expected):
    assert reached(function, *given) == expected
