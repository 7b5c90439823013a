"""Graph networks, split by the features of their hidden layers (GIST)."""

import functools
from collections.abc import Callable
from typing import Any

from ist_jax.cli.architectures.base import Architecture, check_scaling, check_widths
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import num_workers, splits
from ist_jax.data import GraphOptions, Spec
from ist_jax.decompositions import Decomposition, gat, gcn, sage
from ist_jax.decompositions.graphs import padding_problem
from ist_jax.decompositions.scaling import SCALINGS
from ist_jax.models import ACTIVATIONS, GAT, GCN, GRAPH_NORMS, GraphSAGE

CHOICES = {
    "model.norm": GRAPH_NORMS,
    "model.scaling": SCALINGS,
    "model.activation": tuple(ACTIVATIONS),
    "model.dtype": ("float32",),
}


def _check(config: Config) -> None:
    m = config.model
    check_scaling(config)
    check_widths(config, padding_problem(m.norm, m.activation), 0 if m.split_output else 1)
    if splits(config) and not (m.split_input or m.split_output or len(m.hidden) > 1):
        raise ConfigError(
            "model.split_input=False and model.split_output=False leave no layer to partition in a "
            "model with one hidden layer: set one of them to True, or use more layers"
        )
    if config.data.layer_nodes:
        _check_layer_nodes(config)
    else:
        _check_clusters(config)
    if config.data.clusters > 1 and m.norm == "matrix":
        raise ConfigError(
            "model.norm=matrix normalises over all nodes at once, which a batch of clusters does "
            "not have: use layer or none"
        )


def _check_clusters(config: Config) -> None:
    d, batch_size = config.data, config.batch_size
    if batch_size > d.clusters:
        raise ConfigError(
            f"batch_size={batch_size} counts clusters, of which there are "
            f"data.clusters={d.clusters}: use batch_size=0 (the full graph), or more clusters"
        )
    workers = num_workers(config)
    if d.split == "disjoint" and batch_size * workers > d.clusters:
        raise ConfigError(
            f"data.split=disjoint gives each of {workers} workers a share of "
            f"data.clusters={d.clusters} that is smaller than batch_size={batch_size}: use fewer "
            "workers, a smaller batch or more clusters"
        )
    if d.split == "dirichlet":
        raise ConfigError(
            "data.split=dirichlet is by labels, which the clusters of a graph do not have: "
            "use shared or disjoint"
        )


def _check_layer_nodes(config: Config) -> None:
    d, m = config.data, config.model
    given = {"data.clusters": (d.clusters, d.clusters > 1), "model.name": (m.name, m.name == "gat")}
    given["model.norm"] = (m.norm, m.norm == "matrix")
    wrong = [f"{name}={value!r}" for name, (value, is_wrong) in given.items() if is_wrong]
    if wrong:
        raise ConfigError(
            f"data.layer_nodes={d.layer_nodes} draws nodes from the full graph by the weights of "
            f"gcn or sage: it does not go with {' or '.join(wrong)}"
        )


def _graph_options(first_product: str, config: Config) -> GraphOptions:
    """How a graph is laid out. A norm over all nodes needs them all; split inputs stay dense."""
    layers = None if config.model.norm == "matrix" else len(config.model.hidden) + 1
    sparse_below = 0.1 if config.model.name == "gcn" and not config.model.split_input else 0.0
    d = config.data
    return GraphOptions(
        first_product, d.clusters, layers, sparse_below, d.layer_nodes, d.projection, config.seed
    )


def _batched(config: Config) -> str:
    """Always batched for sub-GCNs on one graph: they gather rows of one wide matrix.

    SAGE and GAT take equally long either way (measured on Cora).
    """
    d, m = config.data, config.model
    one_graph = d.clusters == 1 and not d.layer_nodes and m.norm != "matrix"
    return "always" if m.name == "gcn" and splits(config) and one_graph else "accelerator"


def _decompose(
    model: type,
    decompose: Callable[..., Decomposition],
    more: Callable[[Config], dict[str, Any]],
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
    split: dict[str, Any] = {}
    if splits(config):
        split = dict(split_input=m.split_input, split_output=m.split_output, scaling=m.scaling)
    full = model(m.hidden, spec.num_classes, **common, **more(config))
    return decompose(
        full, *spec.example_shape, num_subnets=num_subnets, partition=config.partition, **split
    )


def _architecture(
    name: str,
    model: type,
    decompose: Any,
    first_product: str,
    more: Any = lambda config: {},
    choices: Any = CHOICES,
) -> Architecture:
    return Architecture(
        name,
        ("node_classification",),
        choices,
        _check,
        functools.partial(_decompose, model, decompose, more),
        functools.partial(_graph_options, first_product),
        _batched,
    )


GCN_ARCHITECTURE = _architecture("gcn", GCN, gcn, "symmetric")
SAGE_ARCHITECTURE = _architecture("sage", GraphSAGE, sage, "mean")
# no factor on a layer's input corrects the sums inside attention
UNSCALED = CHOICES | {"model.scaling": ("none",)}
GAT_ARCHITECTURE = _architecture(
    "gat", GAT, gat, "none", lambda config: {"heads": config.model.heads}, UNSCALED
)
