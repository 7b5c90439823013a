"""The configuration of a run: its types, and how command lines and files are read into them."""

from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import FIELDS, METHODS, checked, from_values, replace, values
from ist_jax.cli.config.files import ConfigFile, from_json
from ist_jax.cli.config.schema import (
    Config,
    DataConfig,
    ExchangeConfig,
    FailuresConfig,
    LinkConfig,
    ModelConfig,
    OptimizerConfig,
    OuterConfig,
)

__all__ = [
    "FIELDS",
    "METHODS",
    "Config",
    "ConfigError",
    "ConfigFile",
    "DataConfig",
    "ExchangeConfig",
    "FailuresConfig",
    "LinkConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OuterConfig",
    "checked",
    "from_json",
    "from_values",
    "nearest",
    "replace",
    "values",
]
