"""What makes a configuration impossible, said before anything is loaded: rule, value, remedy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ist_jax.cli.architectures import ARCHITECTURES, MODEL_NAMES, decomposition_of, with_autos
from ist_jax.cli.config import FIELDS, METHODS, Config, ConfigError, nearest
from ist_jax.cli.quantities import link
from ist_jax.core.partition import EQUAL_BLOCKS, PARTITIONS
from ist_jax.core.placement import PLACEMENTS, Placement, make_placement
from ist_jax.data import EMBEDDED, FILES, GRAPHS, SOURCES, SPLITS
from ist_jax.exchange import COMPRESSIONS
from ist_jax.methods import OPT_STATES
from ist_jax.tasks import AUGMENTS


def _of_any_model() -> dict[str, Sequence[str]]:
    """Values that some model takes, by field; `Architecture.choices` narrows them."""
    found: dict[str, dict[str, None]] = {}
    for architecture in ARCHITECTURES.values():
        for name, choices in architecture.choices.items():
            found.setdefault(name, {}).update(dict.fromkeys(choices))
    return {name: tuple(choices) for name, choices in found.items()}


CHOICES: dict[str, Sequence[str]] = {
    "method": METHODS,
    "decomposition": ("auto", *ARCHITECTURES),
    "partition": tuple(name for name in PARTITIONS if name != "fixed"),
    "placement": PLACEMENTS,
    "opt_state": ("auto", *OPT_STATES),
    "exchange.wire": COMPRESSIONS,
    "outer.name": ("auto", "none", "sgd"),
    "model.name": MODEL_NAMES,
    "model.eval_norm": ("train", "batch"),
    "optimizer.name": ("sgd", "adam", "adamw"),
    "optimizer.schedule": ("constant", "cosine", "linear", "step", "thirds"),
    "optimizer.momentum_schedule": ("constant", "demon"),
    "data.augment": AUGMENTS,
    "data.name": tuple(SOURCES),
    "data.split": SPLITS,
} | _of_any_model()
CHOICES["model.scaling"] = ("auto", *CHOICES["model.scaling"])

# field -> (smallest, largest, whether the bounds themselves are allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "num_subnets": (1, 2**20, True),
    "local_steps": (1, 2**30, True),
    "batch_size": (0, 2**30, True),
    "epochs": (0, 1e9, False),
    "seed": (0, 2**31 - 1, True),
    "num_devices": (0, 2**20, True),
    "outer.learning_rate": (0, 1e9, False),
    "outer.momentum": (0, 1, True),
    "warmup_fraction": (0, 1, True),
    "dense_fraction": (0, 1, True),
    "drop.rate": (0, 1, True),
    "optimizer.learning_rate": (0, 1e9, False),
    "optimizer.momentum": (0, 1, True),
    "data.crop_padding": (0, 2**10, True),
    "data.image_size": (0, 2**13, True),
    "min_blocks": (0, 2**20, True),
    "model.width": (1, 2**20, True),
    "optimizer.weight_decay": (0, 1e9, True),
    "optimizer.clip": (0, 1e9, True),
    "optimizer.warmup": (0, 1, True),
    "data.alpha": (0, 1e9, False),
    "data.validation_fraction": (0, 1, False),
    "data.clusters": (1, 2**24, True),
    "data.projection": (0, 2**20, True),
    "data.layer_nodes": (0, 2**24, True),
    "model.heads": (1, 2**16, True),
    "model.dropout": (0, 0.99, True),
    "eval_every": (0, 2**30, True),
    "checkpoint_every": (0, 2**30, True),
    "eval_batch_size": (1, 2**30, True),
    "eval_sample": (2, 2**30, True),
}


def _check_choices(
    values: dict[str, Any], allowed: Mapping[str, Sequence[str]], of: str = ""
) -> None:
    for name, choices in allowed.items():
        if values[name] not in choices:
            hint = nearest(values[name], choices)
            raise ConfigError(
                f"{name} is one of {', '.join(choices)}{of}, not {values[name]!r}{hint}"
            )


def _check_ranges(values: dict[str, Any]) -> None:
    for name, (low, high, closed) in RANGES.items():
        value = values[name]
        if not (low <= value <= high if closed else low < value < high):
            bounds = (
                f"from {low:g} to {high:g}"
                if closed
                else f"between {low:g} and {high:g}, both excluded"
            )
            raise ConfigError(f"{name} is {bounds}, not {value!r}")


def _check_model(c: Config) -> None:
    architecture = ARCHITECTURES[decomposition_of(c)]
    _check_choices(flat_values(c), architecture.choices, f" for model.name={c.model.name!r}")
    architecture.check(c)
    _check_fields(c)


# what a user would expect of any model, and only some have
FIELDS_OF = {
    "model.dropout": ("gcn", "sage", "gat"),
    "model.input_dropout": ("gcn", "sage", "gat"),
    "model.split_input": ("gcn", "sage", "gat"),
    "model.split_output": ("gcn", "sage", "gat"),
    "model.heads": ("gat",),
    "model.bias": ("mlp", "gcn", "sage", "gat"),
    "model.activation": ("mlp", "gcn", "sage", "gat"),
    "min_blocks": ("resnet",),
    "split_stages": ("resnet",),
    "model.stage_sizes": ("resnet",),
    "model.width": ("resnet",),
    "model.block": ("resnet",),
    "model.stem": ("resnet",),
    "model.channels": ("vgg",),
}


def _is_outer(c: Config) -> bool:
    return c.outer.name == "sgd" or (c.outer.name == "auto" and c.method == "diloco")


# fields that do something only beside others: names -> (whether they do, what they are of)
BESIDE: dict[tuple[str, ...], tuple[Callable[[Config], bool], str]] = {
    ("outer.learning_rate", "outer.momentum"): (
        _is_outer,
        "an outer optimizer (outer.name=sgd, or method=diloco)",
    ),
    ("link.latency",): (
        lambda c: bool(c.link.bandwidth),
        "a simulated link (link.bandwidth=1Gbps)",
    ),
    ("data.alpha",): (lambda c: c.data.split == "dirichlet", "data.split=dirichlet"),
    ("data.crop_padding",): (
        lambda c: c.data.augment != "none",
        "an augmentation (data.augment=crop_flip)",
    ),
}


def _check_fields(c: Config) -> None:
    values = flat_values(c)
    for names, (does, of) in BESIDE.items():
        for name in names:
            if values[name] != FIELDS[name].default and not does(c):
                raise ConfigError(
                    f"{name}={values[name]} is of {of}, which this run does not have: leave it out"
                )
    for name, models in FIELDS_OF.items():
        if values[name] != FIELDS[name].default and c.model.name not in models:
            raise ConfigError(
                f"{name}={values[name]} is of {' and '.join(models)}, and does nothing for model.name={c.model.name!r}: "
                f"use {FIELDS[name].default}"
            )
    if c.min_blocks and (
        c.method == "ensemble" or (c.method == "ist" and c.partition not in EQUAL_BLOCKS)
    ):
        raise ConfigError(
            f"min_blocks={c.min_blocks} lets sub-ResNets of ist overlap, with partition={' or '.join(EQUAL_BLOCKS)}: "
            f"not with method={c.method!r} and partition={c.partition!r}"
        )


def _check_method(c: Config) -> None:
    if c.method in ("data_parallel", "single", "ensemble") and c.opt_state not in ("auto",):
        raise ConfigError(
            f"opt_state={c.opt_state!r} is for methods that synchronise parameters; {c.method} always keeps its own: use auto"
        )
    if c.opt_state == "own" and c.method == "ist":
        raise ConfigError(
            "opt_state='own' stays with a worker while ist moves its units on: use reset or carry"
        )
    if c.method not in ("ist", "local_sgd", "diloco") and c.outer.name == "sgd":
        raise ConfigError(
            f"outer.name='sgd' acts on merged parameters, which {c.method} does not have: use none or auto"
        )
    if c.method != "ist" and (c.exchange.wire != "exact" or c.exchange.resident):
        raise ConfigError(
            f"exchange.wire={c.exchange.wire!r} and exchange.resident={c.exchange.resident} are of units, which "
            f"{c.method} does not exchange: use exact and False"
        )
    if c.optimizer.momentum and c.optimizer.name != "sgd":
        raise ConfigError(
            f"optimizer.momentum={c.optimizer.momentum} is of sgd; {c.optimizer.name} has its own: use momentum=0"
        )
    if c.optimizer.momentum_schedule != "constant" and not c.optimizer.momentum:
        raise ConfigError(
            "optimizer.momentum_schedule=demon lets optimizer.momentum decay, which is 0: use 0.9, or constant"
        )
    if any(steps < 1 for steps in c.local_steps_schedule):
        raise ConfigError(
            f"local_steps_schedule={c.local_steps_schedule} are local steps of a round, each at least 1"
        )
    if c.local_steps_schedule and c.method in ("ensemble", "diloco"):
        raise ConfigError(
            f"local_steps_schedule={c.local_steps_schedule} begin a phase each, where members of an ensemble would meet and diloco "
            f"would lose its momentum: leave them out for method={c.method!r}"
        )
    if c.method == "diloco" and c.outer.name == "none":
        raise ConfigError(
            "diloco is local SGD with an outer optimizer: use outer.name=auto, or method=local_sgd"
        )
    if c.warmup_fraction + c.dense_fraction >= 1 and (c.warmup_fraction or c.dense_fraction):
        raise ConfigError(
            f"warmup_fraction={c.warmup_fraction} and dense_fraction={c.dense_fraction} leave no samples for {c.method}"
        )
    if (c.warmup_fraction or c.dense_fraction) and c.method == "ensemble":
        raise ConfigError(
            "the members of an ensemble never meet: warmup_fraction and dense_fraction must be 0"
        )


def _check_lost_and_link(c: Config) -> None:
    link(c.link.bandwidth, c.link.latency)
    if len(c.drop.rounds) != len(c.drop.workers):
        raise ConfigError(
            f"drop.workers names a worker for every round of drop.rounds: {len(c.drop.workers)} and {len(c.drop.rounds)}"
        )
    if c.drop.rounds and (
        min(c.drop.rounds) < 1 or min(c.drop.workers) < 0 or max(c.drop.workers) >= num_workers(c)
    ):
        raise ConfigError(
            f"drop.rounds={c.drop.rounds} count from 1 and drop.workers={c.drop.workers} from 0 to {num_workers(c) - 1}"
        )


def _check_data(c: Config) -> None:
    if c.batch_size == 0 and c.data.split != "shared" and num_workers(c) > 1:
        raise ConfigError(
            f"batch_size=0 (the whole set) needs data.split=shared, not {c.data.split!r}, whose shards differ in size"
        )
    if c.data.name not in EMBEDDED and not c.data.dir:
        raise ConfigError(
            f"data.name={c.data.name!r} needs data.dir, the {'file' if c.data.name in FILES else 'folder'} it reads"
        )
    of_graphs = {
        f"data.{name}": getattr(c.data, name) for name in ("clusters", "layer_nodes", "projection")
    }
    if c.data.name not in GRAPHS and any(
        value != FIELDS[name].default for name, value in of_graphs.items()
    ):
        given = ", ".join(f"{name}={value}" for name, value in of_graphs.items())
        raise ConfigError(
            f"{given}: of graphs, which data.name={c.data.name!r} is not: use 1, 0 and 0"
        )
    if c.data.name in GRAPHS and c.data.augment != "none":
        raise ConfigError(
            f"data.augment={c.data.augment!r} is of images, which data.name={c.data.name!r} is not: use none"
        )
    if c.data.name in GRAPHS and c.data.validation_fraction != Config().data.validation_fraction:
        raise ConfigError(
            f"data.name={c.data.name!r} has a validation split of its own: leave out "
            f"data.validation_fraction={c.data.validation_fraction}"
        )


def placement_of(config: Config) -> Placement:
    """Where the config's workers train. Raises ConfigError if that cannot be."""
    meshable = config.method != "ist" or config.partition in EQUAL_BLOCKS
    try:
        batched = ARCHITECTURES[decomposition_of(config)].batched(config)
        options = dict(on_mesh=meshable, batched=batched)
        placement = make_placement(
            config.placement, num_workers(config), config.num_devices, **options
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if placement.mesh is not None and not meshable:
        raise ConfigError(
            f"a mesh exchanges equal blocks, which partition={config.partition!r} does not have: use balanced or blocks, "
            "or placement=looped"
        )
    return placement


def num_workers(config: Config) -> int:
    """S of the method: 'single' has one worker whatever num_subnets says."""
    return 1 if config.method == "single" else config.num_subnets


def validate(config: Config) -> Config:
    """Returns `config`, with the decomposition and the scaling that 'auto' stands for.

    Raises:
      ConfigError: with one line on what is wrong, where, and what would be right.
    """
    _check_choices(flat_values(config), CHOICES)
    _check_ranges(flat_values(config))
    _check_method(config)
    config = with_autos(config)
    _check_model(config)
    _check_data(config)
    _check_lost_and_link(config)
    placement_of(config)
    return config


def flat_values(config: Config) -> dict[str, Any]:
    """All values by dotted name."""

    def value(name: str) -> Any:
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        return found

    return {name: value(name) for name in FIELDS}
