"""Refuses configurations that cannot run, before anything is loaded."""

from collections.abc import Callable

from ist_jax.cli.architectures import ARCHITECTURES, decomposition_of, with_autos
from ist_jax.cli.config import FIELDS, Config, ConfigError, ExchangeConfig, custom, values
from ist_jax.cli.config.custom import CUSTOM
from ist_jax.cli.config.fields import not_among
from ist_jax.cli.methods import METHODS, has_outer, num_workers
from ist_jax.cli.quantities import link
from ist_jax.core.partition import EQUAL_BLOCKS
from ist_jax.core.placement import Placement, make_placement
from ist_jax.data import SOURCES

GRAPH_MODELS = ("gcn", "sage", "gat")
# field -> the models that have it, besides custom ones
FIELDS_OF = {
    "model.dropout": (*GRAPH_MODELS, "transformer"),
    "model.input_dropout": GRAPH_MODELS,
    "model.split_input": GRAPH_MODELS,
    "model.split_output": GRAPH_MODELS,
    "model.heads": ("gat", "transformer"),
    "model.bias": ("mlp", *GRAPH_MODELS),
    "model.activation": ("mlp", *GRAPH_MODELS, "transformer"),
    "min_blocks": ("resnet",),
    "split_stages": ("resnet",),
    "model.stage_sizes": ("resnet",),
    "model.width": ("resnet", "transformer"),
    "model.block": ("resnet",),
    "model.stem": ("resnet",),
    "model.channels": ("vgg",),
    "model.layers": ("transformer",),
    "model.kv_heads": ("transformer",),
    "model.mlp_width": ("transformer",),
    "model.positions": ("transformer",),
    "model.tied": ("transformer",),
    "model.experts": ("transformer",),
    "model.experts_per_token": ("transformer",),
    "model.balance": ("transformer",),
    "model.scan": ("transformer",),
    "model.remat": ("transformer",),
}


# field that needs another part of the run -> (whether the run has that part, its name)
_TOKENS = (lambda c: c.data.name in ("text", "tokens"), "tokens (data.name=text or tokens)")
_EXPERTS = (lambda c: c.model.experts > 0, "experts (model.experts=8)")
_OUTER = (has_outer, "an outer optimizer (outer.name=sgd, or method=diloco)")
_MOMENTUM = (lambda c: has_outer(c) and c.method != "sparse_loco", f"{_OUTER[1]} with momentum")
_SPARSE = (lambda c: c.method == "sparse_loco", "method=sparse_loco")
_STREAMING = (lambda c: c.method == "streaming_diloco", "method=streaming_diloco")
BESIDE: dict[str, tuple[Callable[[Config], bool], str]] = {
    "outer.learning_rate": _OUTER,
    "outer.momentum": _MOMENTUM,
    "sparse.density": _SPARSE,
    "sparse.chunk": _SPARSE,
    "sparse.values": _SPARSE,
    "sparse.feedback": _SPARSE,
    "streaming.fragments": _STREAMING,
    "streaming.overlap": _STREAMING,
    "streaming.mixing": _STREAMING,
    "link.latency": (
        lambda c: bool(c.link.bandwidth),
        "a simulated link (link.bandwidth=1Gbps)",
    ),
    "data.alpha": (lambda c: c.data.split == "dirichlet", "data.split=dirichlet"),
    "data.context": _TOKENS,
    "data.shift": _TOKENS,
    "data.vocabulary": (lambda c: c.data.name == "text", "text (data.name=text)"),
    "model.experts_per_token": _EXPERTS,
    "model.balance": _EXPERTS,
    "data.crop_padding": (
        lambda c: c.data.augment != "none",
        "an augmentation (data.augment=crop_flip)",
    ),
}


def validate(config: Config) -> Config:
    """Checks what the fields of a configuration say together.

    Args:
      config: its values have passed `config.checked`.

    Returns:
      `config` with the decomposition and the scaling that 'auto' stands for.

    Raises:
      ConfigError: the configuration cannot run. The message is one line: rule, value, remedy.
    """
    custom.check(config)
    _check_method(config)
    config = with_autos(config)
    _check_model(config)
    _check_data(config)
    _check_failures(config)
    link(config.link.bandwidth, config.link.latency)
    placement_of(config)
    return config


def placement_of(config: Config) -> Placement:
    """Where the config's workers train. 'autotune' stands for 'auto' until it has measured.

    Raises:
      ConfigError: this machine has no such placement.
    """
    meshable = config.method != "ist" or config.partition in EQUAL_BLOCKS
    name = "auto" if config.placement == "autotune" else config.placement
    batched = ARCHITECTURES[decomposition_of(config)].batched(config)
    try:
        placement = make_placement(
            name, num_workers(config), config.num_devices, on_mesh=meshable, batched=batched
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if placement.mesh is not None and not meshable:
        raise ConfigError(
            "a mesh exchanges equal blocks, which "
            f"partition={config.partition!r} does not have: use balanced or blocks, or "
            "placement=looped"
        )
    return placement


def _check_model(c: Config) -> None:
    architecture, given = ARCHITECTURES[decomposition_of(c)], values(c)
    for name, choices in architecture.choices.items():
        if given[name] not in choices:
            raise not_among(name, given[name], choices, f" for model.name={c.model.name!r}")
    architecture.check(c)
    _check_beside(c)
    _check_fields_of_models(c)


def _is_custom(c: Config, field: str) -> bool:
    """Whether the part that has this field is custom. Its function may then use all its fields."""
    return values(c).get(f"{field.split('.')[0]}.name") == CUSTOM


def _check_beside(c: Config) -> None:
    given = values(c)
    for name, (does, what) in BESIDE.items():
        if given[name] != FIELDS[name].default and not _is_custom(c, name) and not does(c):
            raise ConfigError(
                f"{name}={given[name]} belongs to {what}, which this run does not have: "
                "leave it out"
            )


def _check_fields_of_models(c: Config) -> None:
    given = values(c)
    for name, models in FIELDS_OF.items():
        if given[name] != FIELDS[name].default and c.model.name not in (*models, CUSTOM):
            raise ConfigError(
                f"{name}={given[name]} belongs to {' and '.join(models)}, and does nothing for "
                f"model.name={c.model.name!r}: use {FIELDS[name].default}"
            )
    unequal = c.method == "ist" and c.partition not in EQUAL_BLOCKS
    if c.min_blocks and (unequal or c.method == "ensemble"):
        raise ConfigError(
            f"min_blocks={c.min_blocks} lets sub-ResNets of ist overlap, with "
            f"partition={' or '.join(EQUAL_BLOCKS)}: not with method={c.method!r} and "
            f"partition={c.partition!r}"
        )


def _check_method(c: Config) -> None:
    if not METHODS[c.method].merges and c.opt_state != "auto":
        raise ConfigError(
            f"opt_state={c.opt_state!r} is for methods that synchronise parameters; {c.method} "
            "always keeps its state: use auto"
        )
    if c.opt_state == "local" and c.method == "ist":
        raise ConfigError(
            "opt_state='local' stays with a worker, while the units of ist move to other workers: "
            "use reset or carry"
        )
    default = ExchangeConfig()
    given = [name for name in vars(default) if getattr(c.exchange, name) != getattr(default, name)]
    if c.method != "ist" and given:
        shown = ", ".join(f"exchange.{name}={getattr(c.exchange, name)!r}" for name in given)
        raise ConfigError(
            f"{shown} belongs to method=ist, which exchanges units, not to {c.method}: leave it out"
        )
    _check_outer(c)
    _check_momentum(c)
    _check_phases(c)


def _check_outer(c: Config) -> None:
    row = METHODS[c.method]
    if not (row.merges or row.outer) and c.outer.name == "sgd":
        raise ConfigError(
            f"outer.name='sgd' acts on merged parameters, which {c.method} does not have: "
            "use none or auto"
        )
    if row.outer and c.outer.name == "none":
        raise ConfigError(
            f"{c.method} is local SGD with an outer optimizer: use outer.name=auto, or "
            "method=local_sgd"
        )


def _check_momentum(c: Config) -> None:
    o = c.optimizer
    if o.momentum and o.name not in ("sgd", CUSTOM):
        raise ConfigError(
            f"optimizer.momentum={o.momentum} belongs to sgd; {o.name} has its own: use momentum=0"
        )
    if o.momentum_schedule != "constant" and not o.momentum:
        raise ConfigError(
            "optimizer.momentum_schedule=demon lets optimizer.momentum decay, which is 0: "
            "use 0.9, or constant"
        )


def _check_phases(c: Config) -> None:
    schedule = c.local_steps_schedule
    if any(steps < 1 for steps in schedule):
        raise ConfigError(
            f"local_steps_schedule={schedule} has local steps of rounds, each at least 1"
        )
    if schedule and METHODS[c.method].keeps:
        raise ConfigError(
            f"each of local_steps_schedule={schedule} begins a phase, where members of an ensemble "
            "would be merged and outer momentum would be lost: leave it out for "
            f"method={c.method!r}"
        )
    shares = f"warmup_fraction={c.warmup_fraction} and dense_fraction={c.dense_fraction}"
    if (c.warmup_fraction or c.dense_fraction) and c.method == "ensemble":
        raise ConfigError(f"the members of an ensemble are never merged: {shares} must be 0")
    if c.warmup_fraction + c.dense_fraction >= 1:
        raise ConfigError(f"{shares} leave no samples for {c.method}: their sum is less than 1")


def _check_failures(c: Config) -> None:
    rounds, workers = c.failures.rounds, c.failures.workers
    if len(rounds) != len(workers):
        raise ConfigError(
            "failures.workers names one worker for each of failures.rounds, not "
            f"{len(workers)} for {len(rounds)}"
        )
    last = num_workers(c) - 1
    if rounds and (min(rounds) < 1 or min(workers) < 0 or max(workers) > last):
        raise ConfigError(
            f"failures.rounds={rounds} count from 1 and failures.workers={workers} from 0 to {last}"
        )


def _check_data(c: Config) -> None:
    if c.batch_size == 0 and c.data.split != "shared" and num_workers(c) > 1:
        raise ConfigError(
            "batch_size=0 (the full training set) needs data.split=shared, not "
            f"{c.data.split!r}, whose shards differ in size"
        )
    if c.data.name == CUSTOM:  # its function checks its fields
        return
    name, source = c.data.name, SOURCES[c.data.name]
    if source.reads != "nothing" and not c.data.dir:
        raise ConfigError(f"data.name={name!r} needs data.dir, the {source.reads} it reads")
    if source.is_graph:
        _check_graph(c)
        return
    _check_no_graph(c)
    if source.is_tokens:
        _check_tokens(c)


def _check_graph(c: Config) -> None:
    if c.data.augment != "none":
        raise ConfigError(
            f"data.augment={c.data.augment!r} is for images, which data.name={c.data.name!r} is "
            "not: use none"
        )
    if c.data.standardise != FIELDS["data.standardise"].default:
        raise ConfigError(
            f"data.standardise={c.data.standardise!r} is for independent examples, and the "
            f"features of data.name={c.data.name!r} stay as they are: leave it out"
        )
    if c.data.validation_fraction != FIELDS["data.validation_fraction"].default:
        raise ConfigError(
            f"data.name={c.data.name!r} has its own validation split: leave out "
            f"data.validation_fraction={c.data.validation_fraction}"
        )


def _check_tokens(c: Config) -> None:
    wrong = {
        "data.augment": (c.data.augment, c.data.augment != "none"),
        "data.standardise": (c.data.standardise, c.data.standardise != "whole"),
        "data.split": (c.data.split, c.data.split == "dirichlet"),
    }
    for name, (value, is_wrong) in wrong.items():
        if is_wrong:
            raise ConfigError(
                f"{name}={value!r} is for labelled examples or images, and "
                f"data.name={c.data.name!r} is a stream of tokens: use {FIELDS[name].default}"
            )
    if c.data.validation_fraction >= 0.5:
        raise ConfigError(
            f"data.validation_fraction={c.data.validation_fraction} is the share of tokens for "
            "validation, and again for the test: use less than 0.5"
        )


def _check_no_graph(c: Config) -> None:
    given, names = values(c), ("data.clusters", "data.layer_nodes", "data.projection")
    if any(given[name] != FIELDS[name].default for name in names):
        shown = ", ".join(f"{name}={given[name]}" for name in names)
        raise ConfigError(
            f"{shown}: for graphs, which data.name={c.data.name!r} is not: use 1, 0 and 0"
        )
