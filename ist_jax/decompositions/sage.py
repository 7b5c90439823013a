"""Feature-wise decomposition of GraphSAGE (GIST; Wolfe et al., 2023, section 2).

A feature of a node and the same feature of its neighbours' mean are one unit. The authors' release
keeps columns i and i + d of a kernel of width 2 d together; here they are one index of an axis.
"""

import itertools
from typing import Any

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.graphs import decompose_graph
from ist_jax.models.sage import GraphSAGE


def rules(groups: list[str | None]) -> Rules:
    """The rules of GraphSAGE. `groups` are the groups of the features that its layers read."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for i, (before, after) in enumerate(itertools.pairwise(groups)):
        table += [(rf"hidden_{i}/kernel", (None, before, after)), (rf"hidden_{i}/bias", (after,))]
    return (*table, (r"output/kernel", (None, groups[-1], None)), (r"output/bias", None))


def sage(model: GraphSAGE, num_features: int, **options: Any) -> Decomposition:
    """The decomposition of `model`. For options and errors, see `decompose_graph`."""
    return decompose_graph(model, num_features, rules, (2, num_features), **options)
