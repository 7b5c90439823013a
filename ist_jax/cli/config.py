"""The configuration of a run: frozen dataclasses, their documentation and their validation.

A config file returns an ml_collections ConfigDict made by `defaults()`; it becomes a `Config` at once, and
nothing behind `resolve` sees a ConfigDict.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from ist_jax.models.vgg import VGG12

METHODS = ("ist", "data_parallel", "local_sgd", "diloco", "ensemble", "single")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line: what, where, what would be right."""


def doc(default: Any, text: str) -> Any:
    """A dataclass field with its documentation."""
    return dataclasses.field(default=default, metadata={"doc": text})


def group(kind: type, text: str) -> Any:
    """A dataclass field that is a group of fields."""
    return dataclasses.field(default_factory=kind, metadata={"doc": text})


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = doc(
        "auto",
        "outer optimizer on params - merged: none, sgd; auto: sgd for diloco, none otherwise",
    )
    learning_rate: float = doc(0.7, "its learning rate; 1 without momentum is the plain merge")
    momentum: float = doc(0.9, "its Nesterov momentum (Douillard et al., 2023)")


@dataclasses.dataclass(frozen=True)
class Exchange:
    wire: str = doc(
        "exact",
        "how units are sent: exact, bfloat16, int8 (with a scale per unit); averages are always exact",
    )
    resident: bool = doc(
        False,
        "units of all groups come home after every round, instead of going from holder to holder",
    )


@dataclasses.dataclass(frozen=True)
class Model:
    name: str = doc(
        "mlp", "model: mlp; of images: resnet, vgg; of graphs: gcn, sage (GraphSAGE), gat"
    )
    hidden: tuple[int, ...] = doc((1024, 1024), "widths of the hidden layers of the full model (vgg: of its classifier; gat: of one head; resnet: has none)")  # fmt: skip
    heads: int = doc(4, "gat: heads of every layer")
    norm: str = doc("batch", "normalisation of hidden layers: batch (mlp: of the logits too, without affine), layer, none; of convolutions: batch, group; of graphs also matrix (all nodes together)")  # fmt: skip
    dropout: float = doc(
        0.0, "of graph networks: probability that an input of a layer is zero in training"
    )
    input_dropout: bool = doc(True, "of graph networks: dropout of the input features, too (the authors' small-scale script has none there)")  # fmt: skip
    split_input: bool = doc(
        False, "of graph networks: deal the input features, too (d0 of the paper)"
    )
    split_output: bool = doc(
        True, "of graph networks: deal the last hidden layer, which the output layer reads"
    )
    eval_norm: str = doc(
        "train",
        "statistics of BatchNorm in evaluation: train (measured on training data), batch (authors)",
    )
    scaling: str = doc("auto", "in the full model of ist, of sums over hidden units (mlp, gcn, sage) or of the branches of dealt blocks (resnet): none, keep (a subnetwork's expected share of them: 1/S, or with a minimum depth its share of the blocks), sqrt (its root); auto: keep for decomposition=blocks, none otherwise (the papers)")  # fmt: skip
    bias: bool = doc(False, "whether dense layers have a bias")
    activation: str = doc("relu", "activation: relu, elu, gelu, tanh, silu, sigmoid, softplus")
    stage_sizes: tuple[int, ...] = doc(
        (3, 4, 23, 3), "resnet: blocks of every stage, its first one included"
    )
    width: int = doc(64, "resnet: channels of the first stage; every later one has twice as many")
    block: str = doc(
        "preact",
        "resnet: preact, post (activation after the sum), preact_bottleneck, post_bottleneck",
    )
    stem: str = doc(
        "small", "resnet: small (3 x 3), large (7 x 7 and a pooling, for images such as ImageNet's)"
    )
    channels: tuple[int, ...] = doc(VGG12, "vgg: channels of its convolutions; 0 is a pooling by 2")
    dtype: str = doc("float32", "compute dtype: float32, bfloat16; parameters are float32")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = doc("sgd", "local optimizer: sgd, adam, adamw")
    learning_rate: float = doc(0.1, "peak learning rate")
    momentum: float = doc(0.0, "momentum of sgd")
    momentum_schedule: str = doc(
        "constant", "over the whole run: constant, demon (decaying to 0; Chen et al., 2019)"
    )
    weight_decay: float = doc(0.0, "weight decay (decoupled for adamw, L2 otherwise)")
    clip: float = doc(
        0.0,
        "largest global norm of a gradient (data_parallel: of the mean gradient); 0: no clipping",
    )
    schedule: str = doc(
        "constant",
        "over the whole run: constant, cosine (to 0), linear (to 0), step (/10 at 50 % and 75 %), thirds (/10 at 1/3 and 2/3)",
    )
    warmup: float = doc(0.0, "share of the run over which the learning rate rises linearly from 0")


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = doc(
        "digits",
        "source: digits (embedded), idx (MNIST files), npz (your own file), tfds, cifar10, cifar100, speech_commands; graphs: "
        "digits_graph (embedded), planetoid, graph_npz (your own file), ogbn_arxiv, ogbn_products, reddit",
    )
    dir: str = doc("", "folder of the source, or file (npz, graph_npz)")
    dataset: str = doc("", "which of the source's data sets (tfds: the builder's name)")
    split: str = doc(
        "shared",
        "what workers draw from: shared (everything), disjoint (a shard each), dirichlet (non-IID by label)",
    )
    alpha: float = doc(1.0, "concentration of the dirichlet split; smaller is less IID")
    validation_fraction: float = doc(
        0.1, "share of the training examples held out for validation; graphs have their own split"
    )
    clusters: int = doc(
        1,
        "parts that a graph is cut into; a batch is batch_size of them, with the edges between; 1: the graph",
    )
    layer_nodes: int = doc(
        0,
        "of a graph: nodes drawn for every layer below a batch, which is then of training nodes (LADIES); 0: none are drawn",
    )
    projection: int = doc(
        0,
        "of a graph: random sums (Gaussian, of the run's seed) that stand for its input features; 0: the features themselves",
    )
    augment: str = doc(
        "none",
        "of training images, in every local step: none, crop (of a padded image), crop_flip, resized_crop_flip",
    )
    image_size: int = doc(0, "of tfds: side of the images that a model sees; they are then streamed from disk, whatever their sizes; 0: all are alike, and held in memory")  # fmt: skip
    crop_padding: int = doc(4, "pixels on every side of an image before it is cropped")


@dataclasses.dataclass(frozen=True)
class Drop:
    rate: float = doc(
        0.0, "probability that a worker is lost in a round: what it trained reaches nobody"
    )
    rounds: tuple[int, ...] = doc(
        (), "rounds, counted from 1, in which the workers of drop.workers are lost"
    )
    workers: tuple[int, ...] = doc((), "a worker, counted from 0, for every round of drop.rounds")


@dataclasses.dataclass(frozen=True)
class LinkSpeed:
    bandwidth: str = doc(
        "",
        "of a link between devices, in bits per second, such as 1Gbps: records then have simulated_seconds",
    )
    latency: str = doc("1ms", "of a message over that link")


@dataclasses.dataclass(frozen=True)
class Config:
    method: str = doc("ist", "ist, data_parallel, local_sgd, diloco, ensemble, single")
    decomposition: str = doc(
        "auto",
        "how ist and ensemble split the model: mlp (neurons of every hidden layer), blocks or filters (of a resnet), "
        "channels (of a vgg), gcn, sage, gat (features of graph networks); auto: the first that is the model's",
    )
    split_stages: tuple[int, ...] = doc(
        (3,), "blocks: stages, counted from 1, whose blocks (but the first) are dealt"
    )
    min_blocks: int = doc(
        0, "blocks: of a stage, that a subnetwork holds at least; more than its share overlap"
    )
    num_subnets: int = doc(4, "S, subnetworks or workers; single has one whatever this says")
    local_steps: int = doc(20, "J, local steps between synchronisations")
    local_steps_schedule: tuple[int, ...] = doc(
        (), "J of further parts of the method's samples; as many equal parts as values and one"
    )
    batch_size: int = doc(
        128,
        "examples (of a graph: clusters, or nodes with data.layer_nodes) of one local step of one worker; 0: the whole training set",
    )
    epochs: float = doc(
        10.0,
        "passes over the training set, samples of all workers together; rounded up to whole steps",
    )
    seed: int = doc(0, "of initialisation, partitions, data order and splits")
    partition: str = doc(
        "balanced", "which units a subnetwork gets: balanced, uniform, blocks, rolling"
    )
    placement: str = doc(
        "auto",
        "where subnetworks train: auto, looped, vmapped, sharded (over num_devices); auto: over several devices if their number divides S; on one, whichever of looped and vmapped is faster, measured if the run has 2,000 local steps or more (convolutional networks are looped; if not measured, on a CPU sub-GCNs of one graph are vmapped and others looped); config.json keeps the choice, and two fresh runs may choose differently and then agree to rounding",
    )
    num_devices: int = doc(0, "devices of a sharded placement; 0: all")
    opt_state: str = doc("auto", "between rounds: reset, carry (moves with its units), own (stays with the worker); auto: own for diloco, reset for ist and local_sgd")  # fmt: skip
    exchange: Exchange = group(Exchange, "how units are exchanged")
    outer: Outer = group(Outer, "outer optimizer")
    warmup_fraction: float = doc(
        0.0, "share of the samples at the start for which the whole model is trained by local SGD"
    )
    dense_fraction: float = doc(
        0.0, "share of the samples at the end for which the whole model is trained data parallel"
    )
    init_from: str = doc(
        "", "workdir of another run, whose parameters this one starts from, with any num_subnets"
    )
    model: Model = group(Model, "the model")
    optimizer: Optimizer = group(Optimizer, "the local optimizer")
    data: Data = group(Data, "the data")
    drop: Drop = group(Drop, "workers that are lost")
    link: LinkSpeed = group(LinkSpeed, "a slow link to simulate")
    eval_every: int = doc(20, "rounds between evaluations; 0: at the end only")
    checkpoint_every: int = doc(
        20,
        "rounds between checkpoints, which a run that is killed goes on from; 0: at the end only",
    )
    eval_batch_size: int = doc(
        1000,
        "examples per evaluation batch; of a graph, clusters: as many as there are, for the full graph",
    )
    eval_sample: int = doc(2000, "training examples on which eval_norm=train measures statistics")
    time_syncs: bool = doc(
        True,
        "time a synchronisation apart when a phase begins (seconds_per_sync in the summary), on a copy of the state",
    )
    eval_subnets: bool = doc(False, "evaluate every subnetwork as a classifier of its own, too")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'model': {'norm': x}} as {'model.norm': x}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping | ml_collections.ConfigDict)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def fields(kind: type = Config, prefix: str = "") -> dict[str, dataclasses.Field]:
    """All fields by dotted name."""
    found: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(kind):
        nested = dataclasses.is_dataclass(field.type)
        found |= (
            fields(field.type, f"{prefix}{field.name}.") if nested else {prefix + field.name: field}
        )
    return found


FIELDS = fields()


def defaults() -> ml_collections.ConfigDict:
    """All fields with their defaults, and an empty `per_method`, for a config file to edit."""
    config = ml_collections.ConfigDict(dataclasses.asdict(Config()))
    config.per_method = ml_collections.ConfigDict({method: {} for method in METHODS})
    return config


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """': did you mean X?' for a typo, or ''."""
    known = list(known)
    whole, last = {k.lower(): k for k in known}, {k.rsplit(".", 1)[-1].lower(): k for k in known}
    close = [
        found[c]
        for found in (whole, last)
        for c in difflib.get_close_matches(name.lower(), found, 1)
    ]
    return f": did you mean {close[0]!r}?" if close else ""


KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def kind_of(name: str) -> str:
    """What values of a field are, in words."""
    wanted = FIELDS[name].type
    return (
        "a tuple of integers such as (256, 256)"
        if typing.get_origin(wanted) is tuple
        else KINDS[wanted]
    )


def _typed(name: str, value: Any) -> Any:
    wanted = FIELDS[name].type
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, tuple | list) and all(type(item) is int for item in value):
            return tuple(value)
    elif wanted is float and type(value) is int:
        return float(value)
    elif type(value) is wanted:
        return value
    raise ConfigError(f"{name} is {kind_of(name)}, not {value!r}")


def _build(kind: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        nested = dataclasses.is_dataclass(field.type)
        values[field.name] = (
            _build(field.type, flat, name + ".") if nested else flat.get(name, field.default)
        )
    return kind(**values)


def resolve(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The `Config` of a ConfigDict: defaults, then the file, then the method's own values, then the command line.

    Args:
      config: from a config file or a config.json, `overrides` already applied to it.
      overrides: dotted names that were given on the command line; they win over `per_method`.

    Raises:
      ConfigError: an unknown field or method, or a value of the wrong type.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    per_method = tree.pop("per_method", {})
    flat = flatten(tree)
    method = flat.get("method", Config.method)
    for name in per_method:
        if name not in METHODS:
            raise ConfigError(
                f"per_method.{name} names no method{nearest(name, METHODS)} (methods: {', '.join(METHODS)})"
            )
        for field, value in flatten(per_method[name]).items():
            if field not in FIELDS:
                raise ConfigError(f"per_method.{name}.{field} is no field{nearest(field, FIELDS)}")
            _typed(field, value)
            if name == method and field not in (overrides or {}):
                flat[field] = value
    for name in flat:
        if name not in FIELDS:
            raise ConfigError(f"{name} is no field{nearest(name, FIELDS)}")
    return _build(Config, {name: _typed(name, value) for name, value in flat.items()})


def described() -> str:
    """Every field with its default and its meaning."""
    lines = [
        f"  --config.{name}={field.default!r}\n      {field.metadata['doc']}"
        for name, field in FIELDS.items()
    ]
    return "\n".join(lines)
