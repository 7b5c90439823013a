"""Fully connected networks, split by the neurons of every hidden layer (IST)."""

from ist_jax.cli.architectures.base import DTYPES, Architecture, check_scaling, check_widths
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
    model = MLP(
        m.hidden,
        spec.num_classes,
        norm=m.norm,
        bias=m.bias,
        activation=m.activation,
        dtype=DTYPES[m.dtype],
    )
    scaling = m.scaling if splits(config) else "none"
    return mlp(
        model, spec.example, num_subnets=num_subnets, partition=config.partition, scaling=scaling
    )


CHOICES = {
    "model.norm": NORMS,
    "model.scaling": SCALINGS,
    "model.activation": tuple(ACTIVATIONS),
    "model.dtype": tuple(DTYPES),
}
ARCHITECTURE = Architecture("mlp", "classification", CHOICES, _check, _decompose)
