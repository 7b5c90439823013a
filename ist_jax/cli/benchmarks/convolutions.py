"""Times this library's gradients of convolutions, and sub-ResNets in every placement.

    ist-jax benchmark convolutions [--repeats 5] [--out DIR]

Prints two tables, and writes them to DIR as convolutions.json and placements.json. The first times
a gradient step by this library's convolution and by Flax's, alone and inside a loop over steps. The
second times a local step of all workers by placement. Expect some minutes on 2 CPU cores, mostly
of compilation.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from ist_jax import data
from ist_jax.cli.benchmarks.machine import described, machine
from ist_jax.cli.benchmarks.timing import Round, median_seconds, round_of
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.core.placement import Placement, looped, sharded, subnet_mesh, vmapped
from ist_jax.decompositions import Decomposition, blocks, channels, filters
from ist_jax.methods import ist
from ist_jax.models import VGG, PreActResNet, ResNet
from ist_jax.models.conv import conv, plain_conv
from ist_jax.tasks import classification
from ist_jax.training.files import json_text, write_whole

STEPS, BATCH, SUBNETS = 4, 32, 4
ROUND_STEPS, ROUND_BATCH = 2, 8  # small: convolutions with batched kernels are very slow


@dataclasses.dataclass(frozen=True)
class ConvolutionsFlags:
    """The flags of `ist-jax benchmark convolutions`."""

    repeats: int = 5
    """How often a program is timed."""
    out: PathText = ""
    """Folder for the tables."""


class Layer(NamedTuple):
    """A convolution with kernels of `size` x `size`, on images of `side` x `side` pixels."""

    size: int
    stride: int
    side: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        kernel = f"{self.size} x {self.size}, stride {self.stride}, {self.side} pixels"
        return f"{kernel}, {self.inputs} to {self.outputs} channels"


LAYERS = (
    Layer(3, 1, 16, 16, 16),
    Layer(3, 1, 8, 64, 64),
    Layer(3, 2, 16, 16, 32),
    Layer(1, 2, 16, 16, 32),
)
CHANNELS = "channels of a VGG (8, 16, 16)"
PLACEMENTS: dict[str, Callable[[], Placement]] = {
    "looped": looped,
    "vmapped": vmapped,
    "sharded, looped inside": lambda: sharded(subnet_mesh(1), looped()),
    "sharded, vmapped inside": lambda: sharded(subnet_mesh(1), vmapped()),
}


def steps_of(layer: Layer, convolve: Callable[..., Any], steps: int) -> Callable[[], Any]:
    """A program of gradient steps on a kernel and its images; more than one are a loop."""
    x = jax.random.normal(jax.random.key(0), (BATCH, layer.side, layer.side, layer.inputs))
    kernel = 0.01 * jax.random.normal(
        jax.random.key(1), (layer.size, layer.size, layer.inputs, layer.outputs)
    )
    loss = lambda both: (convolve(*both, layer.stride) ** 2).mean()

    def step(both: tuple[Any, Any]) -> tuple[Any, Any]:
        gradients = jax.grad(loss)(both)
        return jax.tree.map(lambda leaf, gradient: leaf - 1e-6 * gradient, both, gradients)

    def loop(both: tuple[Any, Any]) -> tuple[Any, Any]:
        return jax.lax.fori_loop(0, steps, lambda _, both: step(both), both)

    return functools.partial(jax.jit(step if steps == 1 else loop), (x, kernel))


def layer_row(layer: Layer, repeats: int) -> list[str]:
    """Milliseconds of a step: by our convolution alone and in a loop, then by the plain one."""
    counts = (1, STEPS, 1, STEPS)
    kinds = (conv, conv, plain_conv, plain_conv)
    seconds = median_seconds(
        [steps_of(layer, kind, count) for kind, count in zip(kinds, counts)], repeats
    )
    return [layer.name, *(f"{1e3 * value / count:.1f}" for value, count in zip(seconds, counts))]


def networks(example: jax.ShapeDtypeStruct) -> dict[str, Decomposition]:
    """One decomposition of each kind, for small images."""
    return {
        "blocks of a ResNet (1, 1, 9), 4 channels": blocks(
            PreActResNet((1, 1, 9), 10, width=4), example, num_subnets=SUBNETS
        ),
        "filters of a ResNet (2, 2), 8 channels": filters(
            ResNet((2, 2), 10, width=8), example, num_subnets=SUBNETS
        ),
        CHANNELS: channels(VGG((8, 0, 16, 16), (16,), 10), example, num_subnets=SUBNETS),
    }


def network_row(name: str, made: Decomposition, images: data.Dataset, repeats: int) -> list[str]:
    """Milliseconds of a local step of all workers by placement."""

    def round_at(placement: Placement) -> Round:
        task, tx = classification(images.mean, images.std), optax.sgd(0.01)
        return round_of(
            ist(made, task, tx, batch_size=ROUND_BATCH, placement=placement), images, ROUND_STEPS
        )

    rounds = [round_at(make()) for make in PLACEMENTS.values()]
    seconds = median_seconds([made.run for made in rounds], repeats)
    return [name, *(f"{1e3 * value / ROUND_STEPS:.1f}" for value in seconds)]


def show(header: Sequence[str], rows: Sequence[Sequence[str]], file: pathlib.Path | None) -> None:
    """Prints a table, and writes it to `file` in the format that pages read."""
    note = described(machine())
    print(f"{markdown(header, rows)}\n{note}\n", flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(
            file, json_text({"header": header, "rows": rows, "note": note}, indent=1) + "\n"
        )


def _benchmark(flags: ConvolutionsFlags) -> None:
    file = lambda name: pathlib.Path(flags.out, name) if flags.out else None
    kinds = ("ours, alone", "ours, in a loop", "plain, alone", "plain, in a loop")
    layers = [layer_row(layer, flags.repeats) for layer in LAYERS]
    show(["ms of a step", *kinds], layers, file("convolutions.json"))
    images = data.load("digits", dataset="images")
    rows = [
        network_row(name, made, images, flags.repeats)
        for name, made in networks(images.example).items()
    ]
    show(["ms of a step of all workers", *PLACEMENTS], rows, file("placements.json"))


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _benchmark(parse(ConvolutionsFlags, argv, __doc__)))
