"""Estimates what a round would cost over a network link, before anything is trained.

    ist-jax plan --config FILE [--bandwidth 1Gbps] [--latency 1ms] [--subnets 1 2] [--steps 10 20]

Compares IST, data parallel, local SGD, DiLoCo, streaming DiLoCo and SparseLoCo, for every number S
of workers and J of local steps. The model is the configured one, with each method's values in the
config file. Times of steps are medians, measured on this machine with the config's data. Bytes and
memory are computed.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ist_jax.analysis.links import Link
from ist_jax.cli import quantities
from ist_jax.cli.benchmarks.timing import median_seconds
from ist_jax.cli.builders import load_dataset
from ist_jax.cli.config import Config, ConfigError, replace
from ist_jax.cli.config.parsing import ConfigFlags, parse_with_config
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.experiment import resolve
from ist_jax.cli.records import drawing
from ist_jax.cli.records.tables import markdown
from ist_jax.cli.validation import validate
from ist_jax.core.trees import tree_bytes
from ist_jax.data import Dataset
from ist_jax.methods import Method
from ist_jax.training.files import json_text, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARED = ("ist", "data_parallel", "local_sgd", "diloco", "streaming_diloco", "sparse_loco")
_STEPS = 10  # in one measurement
ASSUMPTIONS = """\
- Every worker has its own device, as fast as this machine ({device}). Workers wait for each other.
- A step is one compiled local step of one worker, measured alone: the median of {repeats} runs of
  ten steps. Nothing overlaps with it. A synchronisation's time on the device itself (about that of
  a local step, see ist-jax benchmark rounds) is not counted.
- A link of {bandwidth} and {latency} takes bytes sent per device / bandwidth, and the latency once
  for every message that waits for the one before it: one to the next holders, two to a home device
  and back, 2 (S - 1) in a ring all-reduce, S - 1 in a ring all-gather.
- Data parallel synchronises at every step, the other methods after J steps. A row is J steps.
- Memory is that of one worker's parameters, gradients and optimizer state, by their shapes. What is
  stored between rounds (a share of the model, an outer optimizer's anchor and momentum),
  activations and data are not counted.
"""


@dataclasses.dataclass(frozen=True)
class PlanFlags(ConfigFlags):
    """The flags of `ist-jax plan`, besides the fields of the configuration."""

    bandwidth: str = ""
    """Bandwidth of the link in bits per second; by default, the config's, or 1Gbps."""
    latency: str = ""
    """Latency of the link; by default, the config's, or 1ms."""
    subnets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of workers S."""
    steps: tuple[int, ...] = (10, 100, 1000)
    """Numbers of local steps J."""
    repeats: int = 5
    """How often a step is measured."""
    out: PathText = ""
    """Folder for plan.md, plan.json, plan.png and plan.svg."""


class Measured(NamedTuple):
    """The measurements of one method with S workers.

    Attributes:
      name: of the method.
      num_subnets: S.
      method: knows its costs.
      step_seconds: seconds of one local step of one worker.
      memory_bytes: bytes of the parameters, gradients and optimizer state of one worker.
    """

    name: str
    num_subnets: int
    method: Method
    step_seconds: float
    memory_bytes: int


def _step_seconds(method: Method, dataset: Dataset, repeats: int) -> float:
    """Seconds of one local step of one worker, the median of `repeats` measurements."""
    state = method.fresh(jax.random.key(0))
    drawn = [range(_STEPS * method.batch_size)]
    view = next(dataset.views(jax.random.key(1), method.num_workers, method.sharding, drawn))
    key, steps = jax.random.key(2), jax.jit(method.local_steps, static_argnames="steps")
    program = steps.lower(state, view, key, steps=_STEPS).compile()
    return median_seconds([lambda: program(state, view, key)], repeats)[0] / _STEPS


def configured(method: str, argv: Sequence[str]) -> tuple[PlanFlags, Config]:
    """The flags, and the configuration of `method` with the config file's values for it.

    If these do not fit the method, options that only other methods have are reset.

    Raises:
      ConfigError: the arguments are wrong, whatever the method.
    """
    try:
        flags, config = parse_with_config(PlanFlags, [*argv, "--method", method], __doc__)
        return flags, validate(config)
    except ConfigError:
        flags, config = parse_with_config(PlanFlags, argv, __doc__)
        validate(config)
        plain = Config()
        other = dict(
            opt_state="auto",
            outer=plain.outer,
            exchange=plain.exchange,
            streaming=plain.streaming,
            sparse=plain.sparse,
        )
        return flags, dataclasses.replace(config, method=method, **other)


def measure(config: Config, dataset: Dataset, num_subnets: int, repeats: int) -> Measured:
    """Measures the config's method with S workers on this machine.

    Raises:
      ConfigError: the model does not split into so many subnetworks.
    """
    config = replace(
        config,
        num_subnets=num_subnets,
        placement="looped",
        num_devices=0,
        dense_fraction=0.0,
        warmup_fraction=0.0,
        local_steps_schedule=(),
        failures=dict(rounds=(), workers=()),
    )
    method_of = lambda config: resolve(config, dataset).phases[0].method
    method = method_of(config)
    # the step of a worker with the full model does not depend on S, and S states may not fit
    timed = method if config.method == "ist" else method_of(replace(config, num_subnets=1))
    state = jax.eval_shape(method.init, jax.random.key(0))
    worker = jax.eval_shape(method.first_worker, state)
    memory = 2 * tree_bytes(worker.params) + tree_bytes(worker.opt_state)
    seconds = _step_seconds(timed, dataset, repeats)
    return Measured(config.method, num_subnets, method, seconds, memory)


def row(measured: Measured, local_steps: int, link: Link) -> dict[str, Any]:
    """The row of the table for a round of J local steps, and an exchange over `link`."""
    costs, compute = measured.method.costs, local_steps * measured.step_seconds
    exchange = costs.link_seconds(link, local_steps)
    samples = measured.num_subnets * measured.method.batch_size * local_steps
    return {
        "method": measured.name,
        "S": measured.num_subnets,
        "J": local_steps,
        "step_seconds": measured.step_seconds,
        "round_seconds": compute + exchange,
        "utilisation": compute / (compute + exchange),
        "bytes_per_round": costs.bytes_per_round(local_steps),
        "memory_bytes": measured.memory_bytes,
        "samples_per_second": samples / (compute + exchange),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as markdown."""
    header = [
        "method",
        "S",
        "J",
        "step (ms)",
        "round (s)",
        "computing (%)",
        "MB per round",
        "memory (MB)",
        "samples/s",
    ]
    cells = [
        [
            r["method"],
            str(r["S"]),
            str(r["J"]),
            f"{1e3 * r['step_seconds']:.2f}",
            f"{r['round_seconds']:.3f}",
            f"{100 * r['utilisation']:.1f}",
            f"{r['bytes_per_round'] / 1e6:,.2f}",
            f"{r['memory_bytes'] / 1e6:,.1f}",
            f"{r['samples_per_second']:,.0f}",
        ]
        for r in rows
    ]
    return markdown(header, cells)


# field -> (factor, title with the unit, whether the axis is logarithmic)
PANELS = {
    "samples_per_second": (1, "samples per second", True),
    "utilisation": (100, "computing (%)", False),
    "memory_bytes": (1e-6, "memory of a worker (MB)", True),
}


def draw(rows: Sequence[dict[str, Any]], picture: pathlib.Path) -> None:
    """Samples per second, computing and memory over S, a line per method and J.

    Args:
      rows: of the table, at least one.
      picture: a PNG. An SVG is written beside it.
    """
    plt, count = drawing.pyplot(), len(PANELS)
    figure, axes = plt.subplots(1, count, figsize=(4.4 * count, 4.4), layout="constrained")
    for axis, field in zip(axes, PANELS):
        _draw_panel(axis, rows, field)
    labels = axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=len(COMPARED), fontsize=8)
    drawing.save(figure, picture)


def _draw_panel(axis: "Axes", rows: Sequence[dict[str, Any]], field: str) -> None:
    scale, title, is_log = PANELS[field]
    steps = {count: variant for variant, count in enumerate(sorted({r["J"] for r in rows}))}
    lines = dict.fromkeys((r["method"], r["J"]) for r in rows)
    for method, count in lines:
        line = [r for r in rows if (r["method"], r["J"]) == (method, count)]
        workers, values = [r["S"] for r in line], [scale * r[field] for r in line]
        style = drawing.line_style(method, steps[count])
        axis.plot(workers, values, marker=".", label=f"{method}, J={count}", **style)
    axis.set(xscale="log", yscale="log" if is_log else "linear", xlabel="workers", ylabel=title)
    drawing.count_ticks(axis.xaxis, [r["S"] for r in rows])
    (drawing.plain_log_ticks if is_log else drawing.plain_ticks)(axis.yaxis)
    axis.grid(alpha=0.3)


def _link(flags: PlanFlags, config: Config) -> tuple[str, str]:
    """Bandwidth and latency of the flags, else of the config, else 1 Gbit/s and 1 ms."""
    of_config = config.link if config.link.bandwidth else None
    bandwidth = flags.bandwidth or (of_config.bandwidth if of_config else "1Gbps")
    return bandwidth, flags.latency or (of_config.latency if of_config else "1ms")


def _rows(
    configs: Sequence[Config], dataset: Dataset, flags: PlanFlags, link: Link
) -> list[dict[str, Any]]:
    rows = []
    for config, num_subnets in itertools.product(configs, flags.subnets):
        try:
            measured = measure(config, dataset, num_subnets, max(flags.repeats, 1))
        except ConfigError as error:
            print(f"{config.method}, S={num_subnets}: left out ({error})", file=sys.stderr)
            continue
        rows += [row(measured, steps, link) for steps in flags.steps]
    return rows


def plan(argv: Sequence[str]) -> None:
    """Measures, prints and writes a plan. Raises ConfigError if an argument is wrong."""
    flags, first = configured(COMPARED[0], argv)
    for name, numbers in (("subnets", flags.subnets), ("steps", flags.steps)):
        if not numbers or min(numbers) < 1:
            shown = " ".join(map(str, numbers))
            raise ConfigError(f"--{name} is numbers above 0 such as 1 2 4, not {shown!r}")
    configs = [first, *(configured(method, argv)[1] for method in COMPARED[1:])]
    bandwidth, latency = _link(flags, first)
    link = Link(
        quantities.bytes_per_second(bandwidth, "--bandwidth"),
        quantities.seconds(latency, "--latency"),
    )
    rows = _rows(configs, load_dataset(first), flags, link)
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    _show(
        rows,
        ASSUMPTIONS.format(
            device=device, repeats=flags.repeats, bandwidth=bandwidth, latency=latency
        ),
        flags.out,
    )


def _show(rows: Sequence[dict[str, Any]], assumptions: str, out: str) -> None:
    text = f"{table(rows)}\n{assumptions}"
    print(text)
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "plan.md", text)
        write_whole(folder / "plan.json", json_text(list(rows), indent=1) + "\n")
        draw(rows, folder / "plan.png")


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: plan(argv))
