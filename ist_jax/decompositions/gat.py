"""Feature-wise decomposition of graph attention networks (GIST; Wolfe et al., 2023, section 2).

Every subnetwork has all heads, and a share of each head's features. Heads are a separate axis that
is not split.
"""

import itertools
from typing import Any

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.graphs import decompose_graph
from ist_jax.models.gat import GAT


def rules(groups: list[str | None]) -> Rules:
    """The rules of a GAT. `groups` are the groups of the features that its layers read."""
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for i, (before, after) in enumerate(itertools.pairwise(groups)):
        table += [
            (rf"hidden_{i}/project/kernel", (None, before, None, after)),
            (rf"hidden_{i}/(receiver|sender|bias)", (None, after)),
        ]
    return (
        *table,
        (r"output/project/kernel", (None, groups[-1], None, None)),
        (r"output/.*", None),
    )


def gat(model: GAT, num_features: int, **options: Any) -> Decomposition:
    """The decomposition of `model`. For options and errors, see `decompose_graph`."""
    return decompose_graph(model, num_features, rules, (num_features,), **options)
