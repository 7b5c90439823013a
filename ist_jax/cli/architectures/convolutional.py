"""Residual networks, split by blocks (ResIST) or filters (LoFT); VGGs, split by channels (IST)."""

from typing import Any

from ist_jax.cli.architectures.base import DTYPES, OF_EXAMPLES, Architecture, check_widths
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.methods import splits
from ist_jax.data import Spec
from ist_jax.decompositions import Decomposition, blocks, channels, filters
from ist_jax.decompositions.scaling import SCALINGS
from ist_jax.models import VGG, ResNet
from ist_jax.models.residual import BLOCKS, CONV_NORMS, expansion
from ist_jax.models.resnet import STEMS
from ist_jax.tasks.augment import channels_first_problem, has_channels_first


def _check_layout(config: Config, spec: Spec) -> None:
    """Raises ValueError if images seem to have their channels first."""
    if has_channels_first(spec.example_shape):
        problem = channels_first_problem(spec.example_shape)
        raise ValueError(f"model.name={config.model.name!r}: {problem}")


def _resnet(config: Config, spec: Spec) -> ResNet:
    _check_layout(config, spec)
    m = config.model
    return ResNet(
        m.stage_sizes,
        spec.num_classes,
        width=m.width,
        block=m.block,
        norm=m.norm,
        stem=m.stem,
        dtype=DTYPES[m.dtype],
    )


def _check_stages(config: Config) -> None:
    sizes = config.model.stage_sizes
    if not sizes or min(sizes) < 1:
        raise ConfigError(
            "model.stage_sizes names the blocks of at least one stage, each at least 1, not "
            f"{sizes!r}"
        )


def _check_blocks(config: Config) -> None:
    _check_stages(config)
    if not splits(config):
        return
    sizes, stages = config.model.stage_sizes, config.split_stages
    if not stages or not set(stages) <= set(range(1, len(sizes) + 1)):
        raise ConfigError(
            f"split_stages are stages from 1 to {len(sizes)} (model.stage_sizes={sizes}), at least "
            f"one of them, not {stages!r}"
        )
    least = min(sizes[stage - 1] - 1 for stage in stages)
    if least < max(config.num_subnets, config.min_blocks):
        raise ConfigError(
            f"num_subnets={config.num_subnets} and min_blocks={config.min_blocks} are at most the "
            f"{least} blocks that a stage of split_stages={stages} has after its first "
            f"(model.stage_sizes={sizes})"
        )


def _decompose_blocks(config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    options: dict[str, Any] = dict(num_subnets=num_subnets, partition=config.partition)
    if not splits(config):
        return blocks(_resnet(config, spec), spec.example, stages=(), **options)
    options |= dict(
        stages=config.split_stages, min_blocks=config.min_blocks, scaling=config.model.scaling
    )
    return blocks(_resnet(config, spec), spec.example, **options)


def _check_filters(config: Config) -> None:
    _check_stages(config)
    if not splits(config):
        return
    if config.min_blocks or config.split_stages != Config().split_stages:
        raise ConfigError(
            f"min_blocks={config.min_blocks} and split_stages={config.split_stages} belong to "
            "decomposition=blocks, and do nothing for filters: leave them out"
        )
    if expansion(config.model.block) > 1 or config.model.norm != "batch":
        raise ConfigError(
            "filters are partitioned between the two convolutions of a block with "
            f"model.norm=batch: model.block={config.model.block!r} and "
            f"model.norm={config.model.norm!r} are for decomposition=blocks"
        )
    if config.model.width < config.num_subnets:
        raise ConfigError(
            f"model.width={config.model.width} is less than num_subnets={config.num_subnets}: "
            "every subnetwork needs a filter"
        )
    if config.method == "ist" and config.model.block == "preact":
        raise ConfigError(
            "model.block='preact' sums over partitioned filters without a norm after the sum, and "
            "the full model sums over num_subnets times as many: use model.block=post"
        )


def _decompose_filters(config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    model = _resnet(config, spec)
    if not splits(config):
        return blocks(model.clone(unrolled=True), spec.example, num_subnets=num_subnets, stages=())
    return filters(model, spec.example, num_subnets=num_subnets, partition=config.partition)


def _check_channels(config: Config) -> None:
    check_widths(config, "")
    narrowest, least = min((width for width in config.model.channels if width), default=0), 1
    if splits(config):
        least = config.num_subnets
    if narrowest < least:
        raise ConfigError(
            f"model.channels has at least one convolution, each of at least {least} channels (0 is "
            f"a pooling), not {config.model.channels}"
        )
    if config.batch_size == 1:
        raise ConfigError(
            "model.norm=batch needs at least two examples per step, and batch_size is 1"
        )


def _decompose_channels(config: Config, spec: Spec, num_subnets: int) -> Decomposition:
    _check_layout(config, spec)
    m, side = config.model, min(spec.example.shape[1:3])
    if m.channels.count(0) > (most := side.bit_length() - 1):
        raise ValueError(
            f"model.channels={m.channels} halves images of side {side} {m.channels.count(0)} "
            f"times; at most {most} times"
        )
    model = VGG(m.channels, m.hidden, spec.num_classes, norm=m.norm, dtype=DTYPES[m.dtype])
    return channels(model, spec.example, num_subnets=num_subnets, partition=config.partition)


RESNET = {
    "model.norm": CONV_NORMS,
    "model.scaling": SCALINGS,
    "model.block": BLOCKS,
    "model.stem": STEMS,
    "model.dtype": tuple(DTYPES),
}
FILTERS = RESNET | {"model.scaling": ("none",)}
PLAIN = {"model.norm": ("batch",), "model.scaling": ("none",), "model.dtype": tuple(DTYPES)}
_never = lambda config: "never"  # convolutions with batched kernels are grouped, which is slow
BLOCKS_OF = Architecture(
    "resnet",
    OF_EXAMPLES,
    RESNET,
    _check_blocks,
    _decompose_blocks,
    batched=_never,
    scaling="keep",
)
FILTERS_OF = Architecture(
    "resnet", ("classification",), FILTERS, _check_filters, _decompose_filters, batched=_never
)
CHANNELS_OF = Architecture(
    "vgg", ("classification",), PLAIN, _check_channels, _decompose_channels, batched=_never
)
