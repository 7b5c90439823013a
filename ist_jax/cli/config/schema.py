"""The configuration of a run: frozen dataclasses, whose types say which values a field may have.

`Literal` lists the choices of a field, `Range` its bounds. The string below a field is its help
text. `fields.checked` checks single values; `validation` checks fields against each other.
"""

import dataclasses
from typing import Annotated, Literal

from ist_jax.cli.config.model import ModelConfig
from ist_jax.cli.config.types import Count, PathText, Positive, Range, Rate, Share

MethodName = Literal[
    "ist",
    "data_parallel",
    "local_sgd",
    "diloco",
    "streaming_diloco",
    "sparse_loco",
    "ensemble",
    "single",
]
DecompositionName = Literal[
    "auto",
    "mlp",
    "gcn",
    "sage",
    "gat",
    "blocks",
    "filters",
    "channels",
    "neurons",
    "heads",
    "neurons_heads",
    "layers",
    "experts",
    "custom",
]
SourceName = Literal[
    "digits",
    "idx",
    "npz",
    "tfds",
    "cifar10",
    "cifar100",
    "speech_commands",
    "text",
    "tokens",
    "digits_graph",
    "planetoid",
    "graph_npz",
    "ogbn_arxiv",
    "ogbn_products",
    "reddit",
    "custom",
]


@dataclasses.dataclass(frozen=True)
class OuterConfig:
    """The outer optimizer, which is applied to the change of a round."""

    name: Literal["auto", "none", "sgd"] = "auto"
    """Outer optimizer. auto: sgd for diloco, streaming_diloco and sparse_loco, none otherwise."""
    learning_rate: Rate = 0.7
    """Learning rate. 1 without momentum is the same as no outer optimizer."""
    momentum: Share = 0.9
    """Nesterov momentum (Douillard et al., 2023); sparse_loco has none."""


@dataclasses.dataclass(frozen=True)
class ExchangeConfig:
    """How ist exchanges units between rounds."""

    compression: Literal["exact", "bfloat16", "int8"] = "exact"
    """Format in which units are sent; int8 has a scale per unit. Averages are always exact."""
    home_sharded: bool = False
    """Store the units of every group at a fixed home device between rounds, instead of sending
    them straight to their next holder."""
    average_every: Positive = 1
    """Rounds between two averages of the parameters without a group. In between, every worker
    trains its own copy of them. Units are exchanged in every round."""


@dataclasses.dataclass(frozen=True)
class StreamingConfig:
    """How streaming_diloco synchronises."""

    fragments: Positive = 4
    """Number of fragments of the parameters. Each round synchronises one fragment."""
    overlap: Count = 0
    """Local steps between sending a fragment and adopting it; at most local_steps."""
    mixing: Share = 0.0
    """Weight of the worker's local value when a fragment arrives. 0: adopt the global value."""


@dataclasses.dataclass(frozen=True)
class SparseConfig:
    """What the workers of sparse_loco send."""

    density: Annotated[float, Range(1e-9, 1)] = 0.02
    """Share of every chunk's entries that is sent: those of largest magnitude."""
    chunk: Positive = 4096
    """Entries of a chunk."""
    values: Literal["exact", "int8", "int2"] = "int2"
    """Format of the entries; int8 and int2 have a scale per chunk."""
    feedback: Share = 0.95
    """Decay of the error buffers, which keep what workers have not sent."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The local optimizer."""

    name: Literal["sgd", "adam", "adamw", "muon", "custom"] = "sgd"
    """Local optimizer. muon: kernels that are matrices by Muon, others by NAdamW. custom: built by
    get_optimizer() of the config file, which may use the other fields of the optimizer."""
    learning_rate: Rate = 0.1
    """Peak learning rate."""
    momentum: Share = 0.0
    """Momentum of sgd."""
    momentum_schedule: Literal["constant", "demon"] = "constant"
    """Momentum over the run. demon: decays to 0 (Chen et al., 2019)."""
    weight_decay: Annotated[float, Range(0, 1e9)] = 0.0
    """Weight decay: decoupled for adamw and muon, L2 otherwise."""
    clip: Annotated[float, Range(0, 1e9)] = 0.0
    """Largest global norm of a gradient (data_parallel: of the mean gradient). 0: no clipping."""
    schedule: Literal["constant", "cosine", "linear", "step", "thirds"] = "constant"
    """Learning rate over the run. cosine, linear: decays to 0 after the warm-up; step: divided by
    10 at 50 % and 75 % of the run; thirds: divided by 10 at 1/3 and 2/3."""
    warmup: Share = 0.0
    """Fraction of the run over which the learning rate rises linearly from 0."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data."""

    name: SourceName = "digits"
    """Source. digits and digits_graph need no files; idx reads MNIST's format; npz, graph_npz, text
    and tokens (.npy, .bin) read your data. custom: built by get_dataset() of the config file, which
    may use the other fields of the data."""
    dir: PathText = ""
    """Folder of the data; npz, graph_npz and tokens: the file; text: a file, or a folder of .txt
    files."""
    dataset: str = ""
    """Which of the source's data sets. tfds: the builder's name; graph_npz: inductive, the number
    of a split, or both (inductive,3); tokens: the dtype of a .bin file, by default uint16."""
    context: Annotated[int, Range(1, 2**24)] = 128
    """text, tokens: length of a window, the number of tokens that the model reads at once."""
    vocabulary: Literal["characters", "bytes"] = "characters"
    """text: what a token is."""
    shift: bool = True
    """text, tokens: shift training windows at random in every step, by less than their length. A
    window of a disjoint shard may then reach into the next one."""
    split: Literal["shared", "disjoint", "dirichlet"] = "shared"
    """Training examples that workers draw from. shared: all; disjoint: a random shard each;
    dirichlet: a non-IID shard each, by label."""
    alpha: Rate = 1.0
    """Concentration of the dirichlet split. Smaller is less IID."""
    validation_fraction: Annotated[float, Range(0, 1, closed=False)] = 0.1
    """Fraction of the training examples held out for validation. Graphs come with a split. text,
    tokens: this fraction of the tokens, at the end, is the test set, and as many before them are
    the validation set."""
    standardise: Literal["whole", "per_feature", "none"] = "whole"
    """How inputs are normalised, by statistics of training inputs. whole: one mean and deviation
    for all entries; per_feature: one for each entry of an input, as tables need; none: inputs stay
    as they are, and integers (except uint8, which are images) stay integers, for tokens and
    categories. Features of graphs always stay as they are."""
    task: Literal["auto", "classification", "regression", "multi_label"] = "auto"
    """What the targets of independent examples are. classification: integers from 0; regression:
    numbers, one or several per example; multi_label: a table of 0 and 1 with a column for each
    label. auto: floats are regression, a table of 0 and 1 is multi_label, integers are classes."""
    clusters: Annotated[int, Range(1, 2**24)] = 1
    """Graphs: clusters that a graph is cut into. A batch is batch_size clusters and the edges
    between them."""
    layer_nodes: Annotated[int, Range(0, 2**24)] = 0
    """Graphs: nodes drawn for every layer below a batch of training nodes (LADIES). 0: no
    sampling."""
    projection: Annotated[int, Range(0, 2**20)] = 0
    """Graphs: replace the input features by this many Gaussian random projections. 0: keep them."""
    augment: Literal["none", "crop", "crop_flip", "resized_crop_flip"] = "none"
    """Augmentation of training images, drawn anew in every local step."""
    image_size: Annotated[int, Range(0, 2**13)] = 0
    """tfds: side of the model's images in pixels; images are then streamed from disk. 0: all images
    have one size and are read into memory."""
    crop_padding: Annotated[int, Range(0, 2**10)] = 4
    """Pixels added on every side of an image before it is cropped."""


@dataclasses.dataclass(frozen=True)
class FailuresConfig:
    """Simulated failures. What a failed worker trained in a round is lost."""

    rate: Share = 0.0
    """Probability that a worker fails in a round."""
    rounds: tuple[int, ...] = ()
    """Rounds, counted from 1, in which the workers of failures.workers fail."""
    workers: tuple[int, ...] = ()
    """The worker, counted from 0, that fails in each of failures.rounds."""


@dataclasses.dataclass(frozen=True)
class LinkConfig:
    """A simulated slow link between devices."""

    bandwidth: str = ""
    """Bits per second, such as 1Gbps. If it is given, records have simulated_seconds. Only for
    workers on one device, or on the CPU devices of one process."""
    latency: str = "1ms"
    """Latency of a message."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    method: MethodName = "ist"
    """How the model is trained."""
    decomposition: DecompositionName = "auto"
    """How ist and ensemble split the model: mlp (neurons), blocks or filters (of a resnet),
    channels (of a vgg), gcn, sage or gat (features of graph networks), neurons, heads,
    neurons_heads, layers or experts (of a transformer), custom (by get_decomposition() of the
    config file). auto: the first of these for the model."""
    split_stages: tuple[int, ...] = (3,)
    """blocks: stages, counted from 1, whose blocks are partitioned. The first block of a stage is
    always shared."""
    min_blocks: Annotated[int, Range(0, 2**20)] = 0
    """blocks: minimum number of a stage's blocks in a subnetwork. Subnetworks overlap if it is more
    than their share."""
    num_subnets: Annotated[int, Range(1, 2**20)] = 4
    """S, the number of subnetworks or workers. single always has one."""
    local_steps: Positive = 20
    """J, the number of local steps between synchronisations."""
    local_steps_schedule: tuple[int, ...] = ()
    """J of later parts of the run. The method's samples are divided equally between local_steps and
    each of these."""
    batch_size: Count = 128
    """Examples of one local step of one worker (graphs: clusters, or nodes with data.layer_nodes).
    0: the full training set."""
    epochs: Rate = 10.0
    """Passes over the training set by all workers together. Rounded up to full steps."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of initialisation, partitions, data order and splits."""
    partition: Literal["balanced", "uniform", "blocks", "rolling"] = "balanced"
    """How units are assigned to subnetworks."""
    placement: Literal["auto", "autotune", "looped", "vmapped", "sharded"] = "auto"
    """Where workers train: looped or vmapped on one device, or sharded over num_devices. auto:
    sharded if several devices divide S, else a fixed rule by model and backend. autotune: like
    auto, but on one device the faster of looped and vmapped, as measured; config.json records it,
    and two fresh runs may differ by rounding."""
    num_devices: Annotated[int, Range(0, 2**20)] = 0
    """Devices of a sharded placement. 0: all."""
    opt_state: Literal["auto", "reset", "carry", "local"] = "auto"
    """Optimizer state between rounds: reset, carry (moves with its units) or local (stays with the
    worker). auto: reset for ist and local_sgd, local for other methods that average."""
    label_loss: Literal["binary", "softmax"] = "binary"
    """multi_label: binary cross-entropy of every label, or softmax cross-entropy over labels."""
    exchange: ExchangeConfig = ExchangeConfig()
    """How ist exchanges units."""
    streaming: StreamingConfig = StreamingConfig()
    """How streaming_diloco synchronises."""
    sparse: SparseConfig = SparseConfig()
    """What the workers of sparse_loco send."""
    outer: OuterConfig = OuterConfig()
    """Outer optimizer."""
    warmup_fraction: Share = 0.0
    """Fraction of the samples, at the start, on which local SGD trains the full model."""
    dense_fraction: Share = 0.0
    """Fraction of the samples, at the end, on which data parallel trains the full model."""
    builders: PathText = ""
    """Python file with get_dataset(), get_decomposition(), get_task() or get_optimizer(), which
    build parts of the run. A config file with such functions sets this field, and the names of the
    parts to custom."""
    init_from: PathText = ""
    """Workdir of another run whose parameters this run starts from, with any num_subnets."""
    model: ModelConfig = ModelConfig()  # noqa: RUF009 (it is frozen)
    """The model."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The local optimizer."""
    data: DataConfig = DataConfig()
    """The data."""
    failures: FailuresConfig = FailuresConfig()
    """Simulated failures of workers."""
    link: LinkConfig = LinkConfig()
    """A simulated slow link."""
    eval_every: Count = 20
    """Rounds between evaluations. 0: only at the end."""
    checkpoint_every: Count = 20
    """Rounds between checkpoints, from which a killed run resumes. 0: only at the end."""
    eval_batch_size: Positive = 1000
    """Examples of an evaluation batch (graphs: clusters; data.clusters or more: the full graph)."""
    calibration_examples: Annotated[int, Range(2, 2**30)] = 2000
    """Training examples on which eval_norm=train measures statistics."""
    time_syncs: bool = True
    """Time one synchronisation, on a copy of the state, when a phase begins
    (seconds_per_sync in the summary)."""
    eval_subnets: bool = False
    """Evaluate every subnetwork as a model, too."""
