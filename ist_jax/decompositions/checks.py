"""Checks that the rules, the models and the example of a decomposition fit together."""

from typing import Any

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.errors import ModelError, first_line
from ist_jax.core.model import Model
from ist_jax.core.subnet import extract, label_axes
from ist_jax.core.types import Params
from ist_jax.methods.local_batch import check_subnet, input_sizes, local_batch


def check_models(decomposition: Decomposition) -> None:
    """Traces both models on the example; nothing is computed.

    Raises:
      ValueError: a model fails on the example, has variables other than parameters, draws random
        numbers without a key, or returns a tuple; a leaf has no rule, a rule matches no leaf, or an
        axis is not as long as its group; the rules imply other parameters of the subnetwork.
    """
    partition, example = decomposition.partition, decomposition.example
    shapes = _traced("full", decomposition.full.init, jax.random.key(0), example)
    labels = label_axes(shapes, decomposition.rules, partition.sizes)
    _check_outputs("full", decomposition.full, shapes, example)
    check_subnet(decomposition, labels, shapes)
    units = {group: index_SxM[0] for group, index_SxM in partition.first().items()}
    local = lambda x: local_batch(decomposition, {"x": x}, units)["x"]
    if input_sizes(decomposition):
        example = jax.eval_shape(local, example)
    shapes = jax.eval_shape(lambda params: extract(params, labels, units), shapes)
    _check_outputs("subnet", decomposition.subnet, shapes, example)


def _check_outputs(name: str, model: Model, params: Params, example: Any) -> None:
    outputs = _traced(name, model.apply, params, example)
    if isinstance(outputs, tuple | list):
        raise ValueError(
            f"a model returns only its outputs, but `{name}` returns a {type(outputs).__name__} "
            f"of {len(outputs)} values: leave the others out, or return them in a dict"
        )


def _traced(name: str, function: Any, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except ModelError:  # says what is wrong
        raise
    except Exception as error:  # whatever the model raises
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(arguments[-1])]
        raise ValueError(
            f"`{name}` fails on the example, of shape {', '.join(map(str, shapes))} "
            f"({type(error).__name__}: {first_line(error)}): `example` must be like one input, "
            "with a leading batch axis"
        ) from error
