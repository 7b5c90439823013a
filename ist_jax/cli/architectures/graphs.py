"""Graph networks, split by the features of their hidden layers (GIST)."""

import functools
from collections.abc import Callable
from typing import Any

from ist_jax.cli.architectures.base import Architecture, check_scaling, check_widths, splits
from ist_jax.cli.config import Config, ConfigError
from ist_jax.data import GraphOptions, Spec
from ist_jax.decompositions import Decomposition, gat, gcn, sage
from ist_jax.decompositions.graphs import why_not_padded
from ist_jax.decompositions.mlp import SCALINGS
from ist_jax.models import ACTIVATIONS, GAT, GCN, GRAPH_NORMS, GraphSAGE

CHOICES = {
    "model.norm": GRAPH_NORMS,
    "model.scaling": SCALINGS,
    "model.activation": tuple(ACTIVATIONS),
    "model.dtype": ("float32",),
}


def _check(config: Config) -> None:
    check_scaling(config)
    whole = 0 if config.model.split_output else 1
    check_widths(config, why_not_padded(config.model.norm, config.model.activation), whole)
    if splits(config) and not (
        config.model.split_input or config.model.split_output or len(config.model.hidden) > 1
    ):
        raise ConfigError(
            "model.split_input=False and model.split_output=False leave no layer of one hidden layer to be dealt"
        )
    _check_layer_nodes(config)
    if config.batch_size > config.data.clusters and not config.data.layer_nodes:
        raise ConfigError(
            f"batch_size={config.batch_size} is of clusters, of which data.clusters={config.data.clusters}: use batch_size=0 "
            "(the whole graph), or more clusters"
        )
    workers = 1 if config.method == "single" else config.num_subnets
    if (
        config.data.split == "disjoint"
        and not config.data.layer_nodes
        and config.batch_size * workers > config.data.clusters
    ):
        raise ConfigError(
            f"data.split=disjoint leaves each of {workers} workers a share of data.clusters={config.data.clusters}, which "
            f"batch_size={config.batch_size} is more than: use fewer, or more clusters"
        )
    if config.data.split == "dirichlet" and not config.data.layer_nodes:
        raise ConfigError(
            "data.split=dirichlet is by labels, which the clusters of a graph have not: use shared or disjoint"
        )
    if config.data.clusters > 1 and config.model.norm == "matrix":
        raise ConfigError(
            "model.norm=matrix is over all nodes at once, which a batch of clusters has not: use layer or none"
        )


def _check_layer_nodes(config: Config) -> None:
    d, m = config.data, config.model
    given = {"data.clusters": (d.clusters, d.clusters > 1), "model.name": (m.name, m.name == "gat")}
    given["model.norm"] = (m.norm, m.norm == "matrix")
    wrong = [f"{name}={value!r}" for name, (value, is_wrong) in given.items() if is_wrong]
    if d.layer_nodes and wrong:
        raise ConfigError(
            f"data.layer_nodes={d.layer_nodes} are some nodes of a whole graph, drawn by the weights of gcn or sage: "
            f"not with {' or '.join(wrong)}"
        )


def _graph_options(first_product: str, config: Config) -> GraphOptions:
    """A norm over all nodes needs all of them; features that are dealt are dense."""
    layers = None if config.model.norm == "matrix" else len(config.model.hidden) + 1
    sparse_below = 0.1 if config.model.name == "gcn" and not config.model.split_input else 0.0
    d = config.data
    return GraphOptions(
        first_product, d.clusters, layers, sparse_below, d.layer_nodes, d.projection, config.seed
    )


def _batched(config: Config) -> str:
    """Sub-GCNs that read one graph gather rows of one wide matrix; SAGE and GAT, measured on Cora, take as long either way."""
    one_graph = (
        config.data.clusters == 1 and not config.data.layer_nodes and config.model.norm != "matrix"
    )
    return (
        "always" if config.model.name == "gcn" and splits(config) and one_graph else "accelerator"
    )


def _decompose(
    model: type,
    decompose: Callable[..., Decomposition],
    own: Callable[[Config], dict[str, Any]],
    config: Config,
    spec: Spec,
    num_subnets: int,
) -> Decomposition:
    m = config.model
    common = dict(
        norm=m.norm,
        dropout=m.dropout,
        input_dropout=m.input_dropout,
        bias=m.bias,
        activation=m.activation,
    )
    split = (
        dict(split_input=m.split_input, split_output=m.split_output, scaling=m.scaling)
        if splits(config)
        else {}
    )
    whole = model(m.hidden, spec.num_classes, **common, **own(config))
    return decompose(
        whole, *spec.example_shape, num_subnets=num_subnets, partition=config.partition, **split
    )


def _architecture(
    name: str,
    model: type,
    decompose: Any,
    first_product: str,
    own: Any = lambda config: {},
    choices: Any = CHOICES,
) -> Architecture:
    return Architecture(
        name,
        "node_classification",
        choices,
        _check,
        functools.partial(_decompose, model, decompose, own),
        functools.partial(_graph_options, first_product),
        _batched,
    )


GCN_ARCHITECTURE = _architecture("gcn", GCN, gcn, "symmetric")
SAGE_ARCHITECTURE = _architecture("sage", GraphSAGE, sage, "mean")
# attention adds up features of its own, which no factor on a layer's input mends
UNSCALED = CHOICES | {"model.scaling": ("none",)}
GAT_ARCHITECTURE = _architecture(
    "gat", GAT, gat, "none", lambda config: {"heads": config.model.heads}, UNSCALED
)
