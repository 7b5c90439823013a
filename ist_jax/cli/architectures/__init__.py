"""Families of models and the ways they fall apart, by `config.decomposition`: a new one is one file and a line here."""

import dataclasses

from ist_jax.cli.architectures import convolutional, graphs, mlp
from ist_jax.cli.architectures.base import Architecture
from ist_jax.cli.config import Config, ConfigError

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": mlp.ARCHITECTURE,
    "gcn": graphs.GCN_ARCHITECTURE,
    "sage": graphs.SAGE_ARCHITECTURE,
    "gat": graphs.GAT_ARCHITECTURE,
    "blocks": convolutional.BLOCKS_OF,
    "filters": convolutional.FILTERS_OF,
    "channels": convolutional.CHANNELS_OF,
}
MODEL_NAMES = tuple(dict.fromkeys(architecture.model for architecture in ARCHITECTURES.values()))


def decomposition_of(config: Config) -> str:
    """The row of the config; 'auto' is the first of `config.model.name`. Both names are of the tables.

    Raises:
      ConfigError: the decomposition is of another model.
    """
    ways = [name for name, found in ARCHITECTURES.items() if found.model == config.model.name]
    name = ways[0] if config.decomposition == "auto" else config.decomposition
    if name not in ways:
        raise ConfigError(
            f"decomposition={name!r} is of model.name={ARCHITECTURES[name].model!r}, not {config.model.name!r}, "
            f"which falls apart by {', '.join(ways)}: use one of these, or auto"
        )
    return name


def with_autos(config: Config) -> Config:
    """`config` with the decomposition and the scaling that 'auto' stands for. Raises ConfigError as `decomposition_of` does."""
    decomposition, scaling = decomposition_of(config), config.model.scaling
    if scaling == "auto":
        scaling = ARCHITECTURES[decomposition].scaling if config.method == "ist" else "none"
    model = dataclasses.replace(config.model, scaling=scaling)
    return dataclasses.replace(config, decomposition=decomposition, model=model)


__all__ = ["ARCHITECTURES", "MODEL_NAMES", "Architecture", "decomposition_of", "with_autos"]
