"""Your own model (Flax, with its rules), data and optimizer. Copy this file and change it.

    ist-jax run --config experiments/own/wine.py --workdir runs/wine

The data are scikit-learn's 178 Italian wines: 13 chemical measurements each, and 3 cultivars as
classes. Expect at most one of the 36 test wines to be mistaken, after a second of training.
README.md beside this file shows what else works on such a file.
"""

import flax.linen as nn
import jax
import optax
from sklearn.datasets import load_wine

from ist_jax import data, decompose
from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig
from ist_jax.decompositions import Decomposition


class Net(nn.Module):
    """Two hidden layers.

    Attributes:
      hidden: widths of both layers.
      num_classes: number of outputs.
    """

    hidden: tuple[int, int]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(self.hidden[0], name="first")(x))
        x = nn.tanh(nn.Dense(self.hidden[1], name="second")(x))
        return nn.Dense(self.num_classes, name="output")(x)


RULES = (
    ("first/kernel", (None, "one")),  # (measurements, hidden units)
    ("first/bias", ("one",)),
    ("second/kernel", ("one", "two")),
    ("second/bias", ("two",)),
    ("output/kernel", ("two", None)),
    ("output/bias", None),  # shared: averaged over the subnetworks
)


def get_dataset(config: Config) -> data.Dataset:
    x, y = load_wine(return_X_y=True)
    return data.from_arrays(
        x,
        y,
        name="wine",
        test_fraction=0.2,
        validation_fraction=config.data.validation_fraction,
        split=config.data.split,
        alpha=config.data.alpha,
        seed=config.seed,
        standardise="per_feature",
    )


def get_decomposition(config: Config, spec: data.Spec, num_subnets: int) -> Decomposition:
    one, two = config.model.hidden
    return decompose(
        RULES,
        {"one": one, "two": two},
        num_subnets=num_subnets,
        full=Net((one, two), spec.num_classes),
        subnet=Net((one // num_subnets, two // num_subnets), spec.num_classes),
        example=spec.example,
        partition_name=config.partition,
        scale="keep",  # the full model sums num_subnets times as many units
    )


def get_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.optimizer.learning_rate, total_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.nadam(rate))


def get_config() -> Config:
    return Config(
        data=DataConfig(validation_fraction=0.2),
        model=ModelConfig(hidden=(64, 64)),
        num_subnets=4,
        local_steps=5,
        batch_size=8,
        epochs=40.0,
        eval_every=10,
        optimizer=OptimizerConfig(learning_rate=0.01),
    )
