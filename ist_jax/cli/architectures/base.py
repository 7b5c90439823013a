"""What the command line must know of a family of models and the way it falls apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from ist_jax.cli.config import Config, ConfigError
from ist_jax.data import GraphOptions, Spec
from ist_jax.decompositions import Decomposition


class Architecture(NamedTuple):
    """One row of `ARCHITECTURES`: a model and one way to split it.

    Attributes:
      model: its `config.model.name`; several rows may split one model in different ways.
      task: the kind of data that it takes, as `Spec.task` names it.
      choices: the values that fields of the config may have, where they depend on the model.
      check: config -> None: what is impossible before data are loaded. Raises ConfigError.
      decompose: (config, spec, num_subnets) -> Decomposition; num_subnets is 1 where the method does not split the model.
        What does not fit together is a ValueError.
      graph: config -> how a graph is laid out for the model; None for a model of other data.
      batched: config -> as of `ist_jax.core.placement.make_placement`.
      scaling: what `model.scaling=auto` stands for under method=ist.
    """

    model: str
    task: str
    choices: Mapping[str, Sequence[str]]
    check: Callable[[Config], None]
    decompose: Callable[[Config, Spec, int], Decomposition]
    graph: Callable[[Config], GraphOptions] | None = None
    batched: Callable[[Config], str] = lambda config: "accelerator"
    scaling: str = "none"


DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # of compute; None: that of the parameters


def splits(config: Config) -> bool:
    """Whether the method splits the model; the others train whole ones."""
    return config.method in ("ist", "ensemble")


def check_scaling(config: Config) -> None:
    """No `model.scaling` beside a norm."""
    if config.model.scaling != "none" and config.model.norm != "none":
        raise ConfigError(
            f"model.scaling={config.model.scaling!r} stands in for a norm, and model.norm is {config.model.norm!r}: "
            "use scaling=none"
        )


def check_widths(config: Config, why_not_padded: str, whole: int = 0) -> None:
    """`model.hidden` has units for every subnetwork, and as many for each if they may not be padded.

    Args:
      config: whose model has layers of `model.hidden` units.
      why_not_padded: why a subnetwork may not be padded with zero units; '' if it may.
      whole: so many last layers are not dealt.
    """
    hidden, num_subnets = config.model.hidden, config.num_subnets
    if not hidden or min(hidden) < 1:
        raise ConfigError(
            f"model.hidden names the width of at least one layer, each at least 1, not {hidden!r}"
        )
    if not splits(config):
        return
    dealt = hidden[: len(hidden) - whole]
    if min(dealt, default=num_subnets) < num_subnets:
        raise ConfigError(
            f"model.hidden={hidden} has a layer narrower than num_subnets={num_subnets}: every subnetwork needs a unit"
        )
    if config.model.norm == "layer" and min(dealt, default=2 * num_subnets) < 2 * num_subnets:
        raise ConfigError(
            f"model.norm=layer runs over the units of a subnetwork, at least two: model.hidden={hidden} has a layer of fewer "
            f"for num_subnets={num_subnets}"
        )
    if why_not_padded and any(width % num_subnets for width in dealt):
        raise ConfigError(
            f"num_subnets={num_subnets} must divide every layer of model.hidden={hidden}: {why_not_padded}"
        )
