"""What the command line needs to know about a model and a way to split it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import splits
from ist_jax.data import GraphOptions, Spec
from ist_jax.decompositions import Decomposition


class Architecture(NamedTuple):
    """One row of `ARCHITECTURES`: a model and one way to split it.

    Attributes:
      model: its `config.model.name`. Several rows may split one model in different ways.
      tasks: the kinds of data that the model takes, as in `Spec.task`.
      choices: field of the config -> the values that it may have with this model.
      check: config -> None. Refuses what cannot run before data are loaded. Raises ConfigError.
      decompose: (config, spec, num_subnets) -> Decomposition. num_subnets is 1 if the method does
        not split the model. Raises ValueError if the parts do not fit together.
      graph: config -> how a graph is laid out for the model; None if the model takes other data.
      batched: config -> the argument `batched` of `ist_jax.core.placement.make_placement`.
      scaling: what `model.scaling=auto` stands for with method=ist.
    """

    model: str
    tasks: Sequence[str]
    choices: Mapping[str, Sequence[str]]
    check: Callable[[Config], None]
    decompose: Callable[[Config, Spec, int], Decomposition]
    graph: Callable[[Config], GraphOptions] | None = None
    batched: Callable[[Config], str] = lambda config: "accelerator"
    scaling: str = "none"


OF_EXAMPLES = ("classification", "regression", "multi_label")  # tasks over independent examples
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # of computation; None: of the parameters


def check_scaling(config: Config) -> None:
    """Refuses `model.scaling` together with a norm. Raises ConfigError."""
    if config.model.scaling != "none" and config.model.norm != "none":
        raise ConfigError(
            f"model.scaling={config.model.scaling!r} stands in for a norm, and model.norm is "
            f"{config.model.norm!r}: use scaling=none"
        )


def check_widths(config: Config, padding_problem: str, shared: int = 0) -> None:
    """Checks that `model.hidden` has enough units for every subnetwork.

    Args:
      config: of a model with layers of `model.hidden` units.
      padding_problem: why subnetworks need equally many units, without padding; '' if they do not.
      shared: number of last layers that are not partitioned.

    Raises:
      ConfigError: a layer is too narrow, or num_subnets does not divide it although it has to.
    """
    hidden, num_subnets = config.model.hidden, config.num_subnets
    if not hidden or min(hidden) < 1:
        raise ConfigError(
            f"model.hidden names the width of at least one layer, each at least 1, not {hidden!r}"
        )
    if not splits(config):
        return
    partitioned = hidden[: len(hidden) - shared]
    if min(partitioned, default=num_subnets) < num_subnets:
        raise ConfigError(
            f"model.hidden={hidden} has a layer narrower than num_subnets={num_subnets}: every "
            "subnetwork needs a unit"
        )
    least = 2 * num_subnets
    if config.model.norm == "layer" and min(partitioned, default=least) < least:
        raise ConfigError(
            "model.norm=layer runs over the units of a subnetwork, at least two: "
            f"model.hidden={hidden} has a layer of fewer for num_subnets={num_subnets}"
        )
    if padding_problem and any(width % num_subnets for width in partitioned):
        raise ConfigError(
            f"num_subnets={num_subnets} must divide every layer of model.hidden={hidden}: "
            f"{padding_problem}"
        )
