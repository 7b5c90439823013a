"""Models and the ways to split them, by `config.decomposition`.

A new one is its file and its line in `ARCHITECTURES`.
"""

from ist_jax.cli.architectures import convolutional, custom, graphs, mlp, transformer
from ist_jax.cli.architectures.base import Architecture
from ist_jax.cli.config import Config, ConfigError, replace

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": mlp.ARCHITECTURE,
    "gcn": graphs.GCN_ARCHITECTURE,
    "sage": graphs.SAGE_ARCHITECTURE,
    "gat": graphs.GAT_ARCHITECTURE,
    "blocks": convolutional.BLOCKS_OF,
    "filters": convolutional.FILTERS_OF,
    "channels": convolutional.CHANNELS_OF,
    "neurons": transformer.NEURONS_OF,
    "heads": transformer.HEADS_OF,
    "neurons_heads": transformer.NEURONS_AND_HEADS_OF,
    "layers": transformer.LAYERS_OF,
    "experts": transformer.EXPERTS_OF,
    "custom": custom.ARCHITECTURE,
}


def decomposition_of(config: Config) -> str:
    """The key of `ARCHITECTURES` for a config. 'auto' is the first one of `config.model.name`.

    Raises:
      ConfigError: the decomposition is for another model.
    """
    names = [name for name, row in ARCHITECTURES.items() if row.model == config.model.name]
    name = names[0] if config.decomposition == "auto" else config.decomposition
    if name not in names:
        raise ConfigError(
            f"decomposition={name!r} is for model.name={ARCHITECTURES[name].model!r}, not "
            f"{config.model.name!r}: use {', '.join(names)} or auto"
        )
    return name


def with_autos(config: Config) -> Config:
    """`config` with 'auto' resolved in decomposition and scaling. Raises ConfigError."""
    decomposition, scaling = decomposition_of(config), config.model.scaling
    if scaling == "auto":
        scaling = ARCHITECTURES[decomposition].scaling if config.method == "ist" else "none"
    return replace(config, decomposition=decomposition, model={"scaling": scaling})


__all__ = ["ARCHITECTURES", "Architecture", "decomposition_of", "with_autos"]
