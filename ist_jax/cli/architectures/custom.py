"""The model of a config file, split by its get_decomposition()."""

from ist_jax.cli.architectures.base import Architecture
from ist_jax.cli.config import Config, custom
from ist_jax.cli.methods import splits
from ist_jax.data import Spec
from ist_jax.decompositions import Decomposition


def _decompose(config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    made = custom.build(config, "get_decomposition", Decomposition, spec, num_subnets)
    if made.num_subnets != num_subnets:
        raise ValueError(
            f"{config.builders}: get_decomposition() was called with num_subnets={num_subnets}, "
            f"but returned a decomposition of {made.num_subnets}: pass num_subnets on to "
            "ist_jax.decompose"
        )
    if splits(config) and made.partition.name != config.partition:
        raise ValueError(
            f"{config.builders}: the run has partition={config.partition!r}, but "
            f"get_decomposition() returned {made.partition.name!r}: pass "
            "partition_name=config.partition to ist_jax.decompose"
        )
    return made


ARCHITECTURE = Architecture(custom.CUSTOM, None, {}, lambda config: None, _decompose)
