"""Your own model (Flax, with its rules), data and optimizer. Copy this file and change it.

    ist-jax run --config experiments/own/wine.py --workdir runs/wine

The data are scikit-learn's 178 Italian wines: 13 chemical measurements each, and 3 cultivars as
classes. Expect all 36 wines of the test set to be told apart, after a second of training. README.md
beside this file shows what else works on such a file.
"""

import functools

import flax.linen as nn
import jax
import optax
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from ist_jax import data, decompose
from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig
from ist_jax.data.splits import shards_of
from ist_jax.decompositions import Decomposition


class Net(nn.Module):
    """Two hidden layers.

    Attributes:
      hidden: widths of both layers.
      num_classes: number of outputs.
      scale: of what a layer sums over hidden units.
    """

    hidden: tuple[int, int]
    num_classes: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(self.hidden[0], name="first")(x))
        x = nn.tanh(nn.Dense(self.hidden[1], name="second")(self.scale * x))
        return nn.Dense(self.num_classes, name="output")(self.scale * x)


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
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    return data.make_dataset(
        data.Raw(x_train, y_train, x_test, y_test),
        "wine",
        source="scikit-learn",
        validation_fraction=config.data.validation_fraction,
        shards=functools.partial(shards_of, config.data.split, config.seed, config.data.alpha),
        standardise="per_feature",
    )


def get_decomposition(config: Config, spec: data.Spec, num_subnets: int) -> Decomposition:
    one, two = config.model.hidden
    share = 1 / num_subnets  # the full model sums num_subnets times as many units
    return decompose(
        RULES,
        {"one": one, "two": two},
        num_subnets=num_subnets,
        full=Net((one, two), spec.num_classes, scale=share),
        subnet=Net((one // num_subnets, two // num_subnets), spec.num_classes),
        example=spec.example,
        partition_name=config.partition,
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
