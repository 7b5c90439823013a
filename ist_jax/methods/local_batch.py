"""The part of a batch that one subnetwork reads, since inputs may be split as well."""

from typing import Any

import jax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.subnet import extract, label_axes
from ist_jax.core.trees import check_all_match, leaf_shapes, shape_difference
from ist_jax.core.types import Batch, Indices, Params


def input_sizes(decomposition: Decomposition) -> dict[str, int]:
    """group -> size, for the groups that label an axis of the batch."""
    named = {
        group for _, axes in decomposition.batch_rules for group in axes or () if group is not None
    }
    return {group: decomposition.partition.sizes[group] for group in named}


def local_batch(decomposition: Decomposition, batch: Batch, indices: Indices) -> Batch:
    """The part of a batch that one subnetwork reads: all but the input units it does not hold.

    Args:
      decomposition: its batch rules define which fields are split.
      batch: a full batch.
      indices: group -> int32[M], the units of the subnetwork.
    """
    labels = label_axes(batch, decomposition.batch_rules, input_sizes(decomposition))
    return extract(batch, labels, indices)


def check_subnet(decomposition: Decomposition, labels: Any, shapes: Params) -> None:
    """Checks that the rules table and the subnetwork's model agree.

    Raises:
      ValueError: a rule matches no leaf, or the subnetwork's model has other shapes than the rules
        imply.
    """
    check_all_match(decomposition.rules, shapes)
    indices = {group: index_SxM[0] for group, index_SxM in decomposition.partition.first().items()}
    example = decomposition.example
    if input_sizes(decomposition):
        local = lambda x: local_batch(decomposition, {"x": x}, indices)["x"]
        example = jax.eval_shape(local, example)
    given = jax.eval_shape(lambda params: extract(params, labels, indices), shapes)
    built = jax.eval_shape(decomposition.subnet.init, jax.random.key(0), example)
    places = ("in the subnetwork's model", "by the rules")
    if difference := shape_difference(leaf_shapes(built), leaf_shapes(given), places):
        raise ValueError(
            "a subnetwork has the parameters that the rules give it (of every group "
            f"ceil(size / num_subnets) units, or min_units if that is more), and {difference}: "
            "correct the rules or the subnetwork's model"
        )
