"""Fully connected networks, split by the neurons of every hidden layer (IST)."""

from ist_jax.cli.architectures.base import (
    DTYPES,
    OF_EXAMPLES,
    Architecture,
    check_scaling,
    check_widths,
)
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import splits
from ist_jax.data import Spec
from ist_jax.decompositions import Decomposition, mlp
from ist_jax.decompositions.mlp import padding_problem
from ist_jax.decompositions.scaling import SCALINGS
from ist_jax.models import ACTIVATIONS, MLP, NORMS


def _check(config: Config) -> None:
    check_widths(config, padding_problem(config.model.norm, config.model.activation))
    if config.batch_size == 1 and config.model.norm == "batch":
        raise ConfigError(
            "model.norm=batch needs at least two examples per step, and batch_size is 1"
        )
    if config.eval_batch_size == 1 and config.model.norm == config.model.eval_norm == "batch":
        raise ConfigError(
            "model.eval_norm=batch needs at least two examples per batch, and eval_batch_size is 1"
        )
    check_scaling(config)


def _decompose(config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    m = config.model
    _check_scale(config, spec)
    model = MLP(
        m.hidden,
        spec.num_classes,
        norm=m.norm,
        affine_output=spec.task != "classification",
        bias=m.bias,
        activation=m.activation,
        dtype=DTYPES[m.dtype],
    )
    scaling = m.scaling if splits(config) else "none"
    return mlp(
        model, spec.example, num_subnets=num_subnets, partition=config.partition, scaling=scaling
    )


def _check_scale(config: Config, spec: Spec) -> None:
    """Refuses regression whose outputs in the full model would be several times too large."""
    m, is_scaled = config.model, config.model.norm == "batch" or config.model.scaling != "none"
    if spec.task == "regression" and config.method == "ist" and not is_scaled:
        raise ConfigError(
            f"model.norm={m.norm!r}: the full model sums num_subnets={config.num_subnets} times as "
            "many units as a subnetwork, which learned the scale of the targets: use "
            "model.norm=batch, or model.norm=none with model.scaling=keep"
        )


CHOICES = {
    "model.norm": NORMS,
    "model.scaling": SCALINGS,
    "model.activation": tuple(ACTIVATIONS),
    "model.dtype": tuple(DTYPES),
}
ARCHITECTURE = Architecture("mlp", OF_EXAMPLES, CHOICES, _check, _decompose)
