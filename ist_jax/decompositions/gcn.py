"""Feature-wise decomposition of GCNs (GIST; Wolfe et al., 2023, section 2)."""

import itertools
from typing import Any

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.types import Rules
from ist_jax.decompositions.graphs import decompose_graph
from ist_jax.models.gcn import GCN


def rules(groups: list[str | None]) -> Rules:
    """The rules of a GCN. `groups` are the groups of the features that its layers read.

    The bias of the output is shared.
    """
    table: list[tuple[str, tuple[str | None, ...] | None]] = []
    for i, (before, after) in enumerate(itertools.pairwise(groups)):
        table += [(rf"hidden_{i}/kernel", (before, after)), (rf"hidden_{i}/bias", (after,))]
    return (*table, (r"output/kernel", (groups[-1], None)), (r"output/bias", None))


def gcn(model: GCN, num_features: int, **options: Any) -> Decomposition:
    """The decomposition of `model`. For options and errors, see `decompose_graph`."""
    return decompose_graph(model, num_features, rules, (num_features,), **options)
