"""The configuration of a run: its types, and how command lines and files are parsed."""

from ist_jax.cli.config import custom
from ist_jax.cli.config.errors import ConfigError, nearest
from ist_jax.cli.config.fields import (
    FIELDS,
    METHOD_NAMES,
    PATHS,
    checked,
    from_values,
    replace,
    values,
)
from ist_jax.cli.config.files import ConfigFile, from_json, from_record
from ist_jax.cli.config.schema import (
    Config,
    DataConfig,
    ExchangeConfig,
    FailuresConfig,
    LinkConfig,
    ModelConfig,
    OptimizerConfig,
    OuterConfig,
    SparseConfig,
    StreamingConfig,
)

__all__ = [
    "FIELDS",
    "METHOD_NAMES",
    "PATHS",
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
    "SparseConfig",
    "StreamingConfig",
    "checked",
    "custom",
    "from_json",
    "from_record",
    "from_values",
    "nearest",
    "replace",
    "values",
]
