"""How an optimizer's state passes between subnetworks and rounds, and which optimizers allow it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.subnet import Label, is_label
from ist_jax.core.types import Array
from ist_jax.methods.optimizer_facts import StateFacts, inspect

# states with one count for the steps of a schedule and for the updates of averages
_OWN_CLOCK = (
    "DAdaptAdamWState",
    "MadgradState",
    "ProdigyState",
    "ScaleByAdemamixState",
    "ScaleBySimplifiedAdEMAMixState",
    "ScheduleFreeState",
)
# states from which a step computes the parameters, so that it would undo a synchronisation
_OWN_PARAMETERS = ("COCOBState", "MadgradState", "ScheduleFreeState")


def at_step(opt_state: Any, step: Array | int, facts: StateFacts) -> Any:
    """A fresh `opt_state`, with the counts of all schedules as after `step` local steps.

    Adam's count for bias correction does not change, since it counts updates of the moments.
    """

    def set_count(leaf: Array, rate: int) -> Array:
        if rate < 1:
            return leaf
        return leaf + jnp.asarray(step if rate == 1 else step // rate, leaf.dtype)

    return jax.tree.map(set_count, opt_state, facts.tree(facts.rates))


def ticking(facts: StateFacts, opt_state: str) -> Any:
    """Bools in a tree like the state: the leaves that count a step whose batch has no example.

    They are the counts of schedules. In carried state they are all clocks, since subnetworks share
    one value of a clock.
    """
    of_schedules = [rate == 1 for rate in facts.rates]
    return facts.tree(facts.is_clock if opt_state == "carry" else of_schedules)


def state_labels(
    tx: optax.GradientTransformation, labels: Any, params: Any, *, is_outer: bool = False
) -> Any:
    """Labels of the optimizer state over `params`.

    Leaves that belong to a parameter move with its units. All others (step counts) are equal in
    all subnetworks, and are not averaged.

    Args:
      tx: the optimizer.
      labels: labels of the parameters.
      params: arrays or ShapeDtypeStructs.
      is_outer: whether it is the state of the outer optimizer, of which there is only one. In other
        states, a leaf that belongs to no parameter must be equal in all subnetworks.

    Raises:
      ValueError: a leaf belongs to a parameter but has another shape (factored optimizers), or it
        belongs to none and would differ between subnetworks.
    """
    facts = inspect(tx, params)
    flat_labels, flat_params = jax.tree.leaves(labels, is_leaf=is_label), jax.tree.leaves(params)

    def label(leaf: Any, number: int, is_clock: bool, name: str) -> Label:
        if number < 0 and not is_outer and not is_clock:
            raise ValueError(
                "opt_state='carry' moves state that belongs to a parameter or counts steps; "
                f"{name!r} depends on the gradients of all of a subnetwork: use opt_state='reset' "
                "or an optimizer that works per entry"
            )
        if number < 0:
            return Label((None,) * len(leaf.shape), averaged=False)
        if leaf.shape != flat_params[number].shape:
            raise ValueError(
                "opt_state='carry' moves state that is shaped like its parameter; got "
                f"{leaf.shape} for a parameter of shape {flat_params[number].shape}: "
                "use opt_state='reset' or an optimizer that works per entry"
            )
        return flat_labels[number]

    described = zip(jax.tree.leaves(facts.state), facts.number, facts.is_clock, facts.names)
    return facts.tree([label(*leaf) for leaf in described])


def check_noise(facts: StateFacts) -> None:
    """Raises ValueError if the state has a random key."""
    for leaf, number, name in zip(jax.tree.leaves(facts.state), facts.number, facts.names):
        is_old_key = leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,) and number < 0
        if is_old_key or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"an optimizer draws no random numbers, and the state of this one has a key, "
                f"{name!r}, from which all workers would draw the same: add noise in the task's "
                "loss, whose key is new in every step"
            )


def check_local(facts: StateFacts, opt_state: str, *, merges: bool, has_outer: bool) -> None:
    """Checks that a local optimizer computes what it should over several rounds.

    Args:
      facts: of the optimizer.
      opt_state: 'reset', 'carry' or 'local'; see `ist`.
      merges: whether workers get parameters that others have trained.
      has_outer: whether an outer optimizer changes the merged parameters.

    Raises:
      ValueError: with this `opt_state`, steps or parameters would be lost.
    """
    check_noise(facts)
    if opt_state == "reset":
        _check_reset(facts)
    own = _named(facts, _OWN_PARAMETERS)
    if own and ((opt_state == "local" and merges) or (opt_state == "carry" and has_outer)):
        change = "an outer optimizer" if opt_state == "carry" else "a synchronisation"
        remedy = "leave it out" if opt_state == "carry" else "use opt_state='carry'"
        raise ValueError(
            f"{own} computes parameters from its own averages, and would undo what {change} "
            f"changes: {remedy}, or use another optimizer"
        )


def _named(facts: StateFacts, names: Sequence[str]) -> str:
    """The first class name of a nested state that is among `names`; '' if there is none."""
    return next((name for name in facts.nodes() if name in names), "")


def _check_reset(facts: StateFacts) -> None:
    if own := _named(facts, _OWN_CLOCK):
        raise ValueError(
            f"{own} counts the steps of its schedule together with those of its averages, and "
            "opt_state='reset' would restart both in every round: use 'carry' or 'local'"
        )
    if any(
        name.endswith("mini_step") and not is_clock
        for name, is_clock in zip(facts.names, facts.is_clock)
    ):
        raise ValueError(
            "optax.MultiSteps with should_skip_update_fn accumulates gradients over a number of "
            "steps that depends on them, and opt_state='reset' would lose some: use 'local'"
        )
    if wrong := [name for name, rate in zip(facts.names, facts.rates) if rate < 0]:
        raise ValueError(
            "opt_state='reset' sets the counts of schedules to the global step, and "
            f"{wrong[0]!r} follows no fixed number of local steps: use 'carry' or 'local'"
        )


def check_period(facts: StateFacts, opt_state: str, steps: int) -> None:
    """Checks that rounds of `steps` local steps lose no gradients that an optimizer accumulates.

    Raises:
      ValueError: `steps` is not a multiple of the number of steps over which it accumulates them.
    """
    if opt_state != "reset" and not facts.holds_params:
        return  # the next round continues with what was accumulated
    remedy = "" if facts.holds_params else " or opt_state='carry'"
    if facts.period is None:
        raise ValueError(
            "an optimizer that accumulates gradients over a varying number of steps ends a round "
            f"between two of its updates: use a fixed number{remedy}"
        )
    if steps % facts.period:
        raise ValueError(
            f"an optimizer that accumulates gradients over {facts.period} steps loses some in "
            f"rounds of {steps} local steps: use a multiple of {facts.period}{remedy}"
        )


def check_weighted(facts: StateFacts, opt_state: str) -> None:
    """Checks that batches without examples do not disturb what an optimizer accumulates.

    Raises:
      ValueError: it accumulates gradients over several steps, and such a batch would lose some.
    """
    if facts.period != 1 and (opt_state != "local" or facts.holds_params):
        raise ValueError(
            "an optimizer that accumulates gradients over several steps loses some if batches have "
            f"no examples and opt_state={opt_state!r}: make batches larger, use data_parallel, or "
            "an optimizer that steps on every batch"
        )


def check_first_step(facts: StateFacts, step: int) -> None:
    """Checks that the schedules of a fresh state can begin at this local step.

    Raises:
      ValueError: a schedule runs on the updates of an optimizer whose number is not fixed.
    """
    wrong = [name for name, rate in zip(facts.names, facts.rates) if rate < 0]
    if step > 0 and wrong:
        raise ValueError(
            f"a schedule that runs on a varying number of local steps cannot begin at step {step}: "
            f"{wrong[0]!r} counts for one: make the phase with this optimizer the first, or let it "
            "accumulate over a fixed number of steps"
        )
