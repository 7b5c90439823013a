"""The methods by name: how each is made from a configuration, and what the checks need to know."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from ist_jax.cli.config import Config
from ist_jax.cli.optimizers import outer_optimizer
from ist_jax.methods import (
    Method,
    data_parallel,
    ensemble,
    ist,
    local_sgd,
    sparse_loco,
    streaming_diloco,
)


class MethodRow(NamedTuple):
    """One row of `METHODS`.

    Attributes:
      make: (config, decomposition, task, optimizer, **options) -> Method; the options are
        batch_size and placement.
      splits: whether the method splits the model. Other methods train full models.
      merges: whether workers take local steps and then merge their parameters. Optimizer states may
        then be reset, carried or local, and an outer optimizer may act on the merged parameters.
      outer: whether the method always has an outer optimizer.
      keeps: whether the method has state that would be lost at the end of a phase.
      one_worker: whether there is one worker, whatever num_subnets is.
    """

    make: Callable[..., Method]
    splits: bool = False
    merges: bool = False
    outer: bool = False
    keeps: bool = False
    one_worker: bool = False


def _opt_state(config: Config, automatic: str) -> str:
    return automatic if config.opt_state == "auto" else config.opt_state


def has_outer(config: Config) -> bool:
    """Whether an outer optimizer acts on the merged parameters."""
    name = config.outer.name
    return name == "sgd" or (name == "auto" and METHODS[config.method].outer)


def _outer(config: Config) -> optax.GradientTransformation | None:
    return outer_optimizer(config.outer) if has_outer(config) else None


def _ist(config: Config, *parts: Any, **options: Any) -> Method:
    return ist(
        *parts,
        opt_state=_opt_state(config, "reset"),
        outer_tx=_outer(config),
        home_sharded=config.exchange.home_sharded,
        compression=config.exchange.compression,
        average_every=config.exchange.average_every,
        **options,
    )


def _local_sgd(config: Config, *parts: Any, automatic: str = "reset", **options: Any) -> Method:
    return local_sgd(
        *parts,
        num_workers=num_workers(config),
        opt_state=_opt_state(config, automatic),
        outer_tx=_outer(config),
        **options,
    )


def _diloco(config: Config, *parts: Any, **options: Any) -> Method:
    return _local_sgd(config, *parts, automatic="local", **options)


def _streaming_diloco(config: Config, *parts: Any, **options: Any) -> Method:
    return streaming_diloco(
        *parts,
        num_workers=num_workers(config),
        outer_tx=_outer(config),
        **dataclasses.asdict(config.streaming),
        **options,
    )


def _sparse_loco(config: Config, *parts: Any, **options: Any) -> Method:
    return sparse_loco(
        *parts,
        num_workers=num_workers(config),
        outer_tx=optax.sgd(config.outer.learning_rate),
        **dataclasses.asdict(config.sparse),
        **options,
    )


def _ensemble(config: Config, *parts: Any, **options: Any) -> Method:
    del config
    return ensemble(*parts, **options)


def dense(config: Config, *parts: Any, **options: Any) -> Method:
    """Data parallel training of the full model."""
    return data_parallel(*parts, num_workers=num_workers(config), **options)


def warmup(config: Config, *parts: Any, **options: Any) -> Method:
    """Local SGD of the full model, before the phases of the method."""
    opt_state = "carry" if config.opt_state == "carry" else "reset"
    return local_sgd(*parts, num_workers=num_workers(config), opt_state=opt_state, **options)


# Config.method -> its row. A new method is a line here
METHODS: dict[str, MethodRow] = {
    "ist": MethodRow(_ist, splits=True, merges=True),
    "data_parallel": MethodRow(dense),
    "local_sgd": MethodRow(_local_sgd, merges=True),
    "diloco": MethodRow(_diloco, merges=True, outer=True, keeps=True),
    "streaming_diloco": MethodRow(_streaming_diloco, outer=True, keeps=True),
    "sparse_loco": MethodRow(_sparse_loco, outer=True, keeps=True),
    "ensemble": MethodRow(_ensemble, splits=True, keeps=True),
    "single": MethodRow(dense, one_worker=True),
}


def splits(config: Config) -> bool:
    """Whether the method splits the model; other methods train full models."""
    return METHODS[config.method].splits


def num_workers(config: Config) -> int:
    """S: num_subnets, unless the method always has one worker."""
    return 1 if METHODS[config.method].one_worker else config.num_subnets
