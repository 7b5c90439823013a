"""The trees that a method exchanges between workers, and parts of them."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.subnet import blend, label_axes, per_subnet
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array
from ist_jax.methods.local_batch import check_subnet
from ist_jax.methods.optimizer_facts import parameter_numbers
from ist_jax.methods.optimizer_state import state_labels


class Exchanged(NamedTuple):
    """Parameters and the optimizer state that moves with them, or their labels, shapes or codecs.

    Attributes:
      params: the parameters.
      opt_state: the local optimizer's state if it is carried with the units, otherwise ().
      outer_state: the outer optimizer's state; () without one. Workers never receive it, but it
        moves with holder-sharded units.
    """

    params: Any
    opt_state: Any = ()
    outer_state: Any = ()

    @property
    def pulled(self) -> "Exchanged":
        """The part that workers receive and return."""
        return self._replace(outer_state=())


def exchanged_trees(
    decomposition: Decomposition,
    tx: optax.GradientTransformation,
    opt_state: str = "reset",
) -> tuple[Exchanged, Exchanged]:
    """(labels, shapes) of everything that is exchanged, without an outer optimizer's state.

    Raises:
      ValueError: the rules do not fit the model or the subnetwork's model, or the optimizer's state
        cannot move with its units (`state_labels`).
    """
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    labels = label_axes(shapes, decomposition.rules, decomposition.partition.sizes)
    check_subnet(decomposition, labels, shapes)
    if opt_state != "carry":
        return Exchanged(labels), Exchanged(shapes)
    state = jax.eval_shape(tx.init, shapes)
    return Exchanged(labels, state_labels(tx, labels, shapes)), Exchanged(shapes, state)


def owners(tree: Exchanged) -> Exchanged:
    """For every leaf, the name of the parameter that it belongs to; '' for a count of steps."""
    names = leaf_names(tree.params)

    def of(state: Any) -> Any:
        numbers = parameter_numbers(state, tree.params)
        owned = [names[number] if number >= 0 else "" for number in numbers]
        return jax.tree.structure(state).unflatten(owned)

    return Exchanged(*map(of, tree))


def pick(tree: Any, owners: Any, names: Collection[str]) -> Any:
    """`tree`, with None in place of the leaves whose owner is not among `names`.

    Args:
      tree: of arrays, shapes or labels.
      owners: a tree like it; see `owners`.
      names: of parameters.
    """
    return jax.tree.map(lambda owner, leaf: leaf if owner in names else None, owners, tree)


def fill(part: Any, tree: Any) -> Any:
    """`part`, with the leaves of `tree` in place of None."""
    choose = lambda leaf, other: other if leaf is None else leaf
    return jax.tree.map(choose, part, tree, is_leaf=lambda leaf: leaf is None)


def blend_copies(
    old_S: Exchanged, trained_S: Exchanged, names: Collection[str], weight_S: Array
) -> Exchanged:
    """Every worker's copies after training; None in place of other leaves.

    Args:
      old_S: what the workers pulled.
      trained_S: what they trained.
      names: of the copied parameters.
      weight_S: their participation; a worker of weight 0 keeps its old copies.
    """
    blend_leaf = lambda old, new: blend(old, new, per_subnet(weight_S, old))
    owned = owners(old_S)
    return jax.tree.map(blend_leaf, *(pick(tree_S, owned, names) for tree_S in (old_S, trained_S)))
