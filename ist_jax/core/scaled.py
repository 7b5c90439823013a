"""Factors on sums over units in the full model, which has more units than its subnetworks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ist_jax.core.contractions import Axis, contractions
from ist_jax.core.model import Model, Stats, Training
from ist_jax.core.subnet import is_label
from ist_jax.core.trees import leaf_names, map_with_names
from ist_jax.core.types import Array, Key, Params


@dataclasses.dataclass(frozen=True, eq=False)
class ScaledModel:
    """A model that is applied with some of its parameters multiplied by a factor.

    Attributes:
      model: the model. Its `init` gives the parameters.
      factors: name of a parameter -> factor.
    """

    model: Model
    factors: Mapping[str, float]

    def fold(self, params: Params) -> Params:
        """The parameters with which `model` itself computes the same outputs."""
        return map_with_names(
            lambda name, leaf: leaf * self.factors[name] if name in self.factors else leaf, params
        )

    def init(self, key: Key, example: Any) -> Params:
        return self.model.init(key, example)

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        return self.model.apply(self.fold(params), inputs, key=key, stats=stats)

    def apply_with_loss(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> tuple[Array, Array | None]:
        """The outputs, and the auxiliary loss of a model that has one (`core.model.Training`)."""
        training = Training(self.model)
        outputs = training.apply(self.fold(params), inputs, key=key, stats=stats)
        return outputs, training.losses[0] if training.losses else None

    def measure(self, params: Params, inputs: Any) -> Stats:
        return self.model.measure(self.fold(params), inputs)


def summed_groups(model: Model, shapes: Params, example: Any, labels: Any) -> dict[str, set[str]]:
    """Name of a parameter -> the groups that the model sums over with it.

    These are the groups of the axes that matrix products and convolutions contract. A factor on the
    parameter is then a factor on the sum.

    Args:
      model: the full model.
      shapes: its parameters, arrays or ShapeDtypeStructs.
      example: the inputs of a batch, arrays or ShapeDtypeStructs.
      labels: labels of the parameters.

    Raises:
      ValueError: the model sums over an axis in one place, and uses it without a sum in another.
    """
    uses = contractions(model.apply, shapes, example)
    summed: dict[str, set[str]] = {}
    flat = jax.tree.leaves(labels, is_leaf=is_label)
    for number, (name, label) in enumerate(zip(leaf_names(shapes), flat)):
        for axis, group in label.groups:
            if (where := Axis(number, axis)) not in uses.contracted:
                continue
            if where in uses.kept:
                raise ValueError(
                    f"a factor on {name!r} would change more than a sum over {group!r}: the model "
                    "also uses it elsewhere; scale that sum in `full`, and pass scale='none'"
                )
            summed.setdefault(name, set()).add(group)
    return summed
