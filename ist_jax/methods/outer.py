"""The outer optimizer, which acts on the change that a synchronisation makes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from ist_jax.core.trees import map_with_names
from ist_jax.core.types import Params
from ist_jax.exchange import Exchange
from ist_jax.methods.exchanged import Exchanged, fill, pick
from ist_jax.methods.optimizer_state import state_labels


def parts_of(pushed: Sequence[frozenset[str]]) -> tuple[frozenset[str], ...]:
    """The parameters, in parts that are always pushed together.

    Args:
      pushed: for every round of a cycle, the names of the parameters that it pushes.
    """
    parts: dict[tuple[bool, ...], set[str]] = {}
    for name in sorted(frozenset().union(*pushed)):
        parts.setdefault(tuple(name in names for names in pushed), set()).add(name)
    return tuple(map(frozenset, parts.values()))


def split_up(tree: Any, params: Params, parts: Sequence[frozenset[str]]) -> list[Any]:
    """For every part, `tree` with None in place of other leaves.

    Args:
      tree: of arrays, shapes or labels, with a leaf for every parameter.
      params: the parameters or their shapes.
      parts: names of parameters.
    """
    names = map_with_names(lambda name, _: name, params)
    return [pick(tree, names, part) for part in parts]


class Outer(NamedTuple):
    """An outer optimizer. Each part of the parameters has its own state.

    Attributes:
      tx: the optimizer.
      exchange: moves its state with the units.
      parts: the parameters that are always pushed together, by name.
    """

    tx: optax.GradientTransformation
    exchange: Exchange
    parts: tuple[frozenset[str], ...]

    def init(self, params: Params) -> tuple[Any, ...]:
        """The state of every part."""
        return tuple(map(self.tx.init, split_up(params, params, self.parts)))

    def update(
        self, state: tuple[Any, ...], old: Params, merged: Params, pushed: frozenset[str]
    ) -> tuple[Params, tuple[Any, ...]]:
        """One step for each part that was pushed (Douillard et al., Algorithm 1).

        Args:
          state: of every part.
          old: the parameters before the round.
          merged: the parameters after the synchronisation.
          pushed: names of the parameters that were pushed.

        Returns:
          (parameters, state).
        """
        states, trees = list(state), (old, merged)
        for number, part in enumerate(self.parts):
            if not part <= pushed:
                continue
            before, after = (split_up(tree, tree, [part])[0] for tree in trees)
            pseudo_gradient = jax.tree.map(lambda x, y: x - y, before, after)
            updates, states[number] = self.tx.update(pseudo_gradient, states[number], before)
            merged = fill(optax.apply_updates(before, updates), merged)
        return merged, tuple(states)


def with_outer_state(
    labels: Exchanged,
    shapes: Exchanged,
    tx: optax.GradientTransformation,
    parts: Sequence[frozenset[str]],
) -> tuple[Exchanged, Exchanged]:
    """(labels, shapes) that include those of the outer optimizer's state; see `Outer`."""
    label_parts, shape_parts = (
        split_up(tree.params, shapes.params, parts) for tree in (labels, shapes)
    )
    label = lambda *part: state_labels(tx, *part, is_outer=True)
    shape = lambda part: jax.eval_shape(tx.init, part)
    return (
        labels._replace(outer_state=tuple(map(label, label_parts, shape_parts))),
        shapes._replace(outer_state=tuple(map(shape, shape_parts))),
    )
