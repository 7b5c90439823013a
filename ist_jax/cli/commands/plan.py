"""What a round would cost over a link, before anything is trained:

    python -m ist_jax.cli.commands.plan --config=FILE [--config.x=y] [--bandwidth=1Gbps] [--latency=1ms] [--subnets=1,2,4,8]
        [--local_steps=10,100] [--repeats=5] [--out=DIR]

For the configured model and every method's own values, IST beside data parallel, local SGD and DiLoCo, for every number of
workers S (1 to 64 by default) and of local steps J. Step times are measured on this machine, on the config's data, as medians
of --repeats; bytes and memory are arithmetic. The link is the config's by default, or 1 Gbit/s and 1 ms. Prints a table; --out
takes plan.md, plan.json and plan.png.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from ist_jax.analysis.links import Link
from ist_jax.cli import builders, quantities
from ist_jax.cli.benchmarks.timing import median_seconds
from ist_jax.cli.commands import run
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.cli.validation import validate
from ist_jax.core.trees import tree_bytes
from ist_jax.data import Dataset
from ist_jax.methods import Method as Algorithm
from ist_jax.training.files import write_whole

METHODS = ("ist", "data_parallel", "local_sgd", "diloco")
SUBNETS = (1, 2, 4, 8, 16, 32, 64)
LOCAL_STEPS = (10, 100, 1000)
_STEPS = 10  # in one measurement
ASSUMPTIONS = """\
- Every worker has a device of its own, as fast as this machine ({device}); workers wait for each other.
- A step is one local step of one worker, alone, compiled; the median of {repeats} runs of ten here. Nothing overlaps with it,
  and what a synchronisation costs a device itself (about a local step, see ist_jax.cli.benchmarks.rounds) is left out.
- Over a link of {bandwidth} and {latency}: bytes sent per device / bandwidth, and the latency once for every message that
  waits for the one before it: one to the next holders, two to home and back, 2 (S - 1) in a ring all-reduce.
- Data parallel synchronises at every step, the others once in J; J is then the steps of the row.
- Memory is that of parameters, gradients and optimizer state of one worker, in bytes of their shapes; what rests between
  rounds (a share of the model, an outer optimizer's anchor and momentum), activations and data come on top.
"""


class Measured(NamedTuple):
    """One method with S workers.

    Attributes:
      method: its name.
      num_subnets: S.
      algorithm: for its costs.
      step_seconds: of one local step of one worker.
      memory_bytes: parameters, gradients and optimizer state of one worker.
    """

    method: str
    num_subnets: int
    algorithm: Algorithm
    step_seconds: float
    memory_bytes: int


def _step_seconds(algorithm: Algorithm, dataset: Dataset, repeats: int) -> float:
    """Median over `repeats` of one local step of one worker."""
    state = algorithm.fresh(jax.random.key(0))
    drawn = range(_STEPS * algorithm.batch_size)
    view = next(
        dataset.views(jax.random.key(1), algorithm.num_workers, algorithm.sharding, [drawn])
    )
    key = jax.random.key(2)
    program = (
        jax.jit(algorithm.local_steps, static_argnames="steps")
        .lower(state, view, key, steps=_STEPS)
        .compile()
    )
    return median_seconds([lambda: program(state, view, key)], repeats)[0] / _STEPS


def configured(method: str, arguments: Sequence[str]) -> Config:
    """The configuration of `method`: what the file says of it, without options that are of another method alone.

    Raises:
      ConfigError: the arguments are wrong, whatever the method.
    """
    try:
        return run.parse([*arguments, f"--config.method={method}", "--workdir=unused"]).config
    except ConfigError:
        given, plain = run.parse([*arguments, "--workdir=unused"]).config, Config()
        return dataclasses.replace(
            given, method=method, opt_state="auto", outer=plain.outer, exchange=plain.exchange
        )


def measure(config: Config, dataset: Dataset, num_subnets: int, repeats: int) -> Measured:
    """The config's method with S workers on this machine.

    Raises:
      ConfigError: the model does not fall into so many subnetworks.
    """
    method, phases = (
        config.method,
        dict(dense_fraction=0.0, warmup_fraction=0.0, local_steps_schedule=(), drop=Config().drop),
    )
    config = validate(
        dataclasses.replace(
            config, num_subnets=num_subnets, placement="looped", num_devices=0, **phases
        )
    )
    made = lambda config: builders.phases(config, dataset.spec)[0][0].method
    algorithm = made(config)
    # a worker that holds the whole model steps as fast whatever S is, and S whole optimizer states may not fit here
    timed = algorithm if method == "ist" else made(dataclasses.replace(config, num_subnets=1))
    worker = jax.eval_shape(
        algorithm.first_worker, jax.eval_shape(algorithm.init, jax.random.key(0))
    )
    memory = 2 * tree_bytes(worker.params) + tree_bytes(worker.opt_state)
    return Measured(method, num_subnets, algorithm, _step_seconds(timed, dataset, repeats), memory)


def row(found: Measured, local_steps: int, link: Link) -> dict[str, Any]:
    """What a round of J local steps costs over `link`."""
    costs, compute = found.algorithm.costs, local_steps * found.step_seconds
    exchange = costs.link_seconds(link, local_steps)
    samples = found.num_subnets * found.algorithm.batch_size * local_steps
    return {
        "method": found.method,
        "S": found.num_subnets,
        "J": local_steps,
        "step_seconds": found.step_seconds,
        "round_seconds": compute + exchange,
        "utilisation": compute / (compute + exchange),
        "bytes_per_round": costs.bytes_per_round(local_steps),
        "memory_bytes": found.memory_bytes,
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


def draw(rows: Sequence[dict[str, Any]], picture: pathlib.Path) -> None:
    """Samples per second, computing and memory over S, a line per method and J; PNG."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    panels = (
        ("samples_per_second", 1, "samples per second"),
        ("utilisation", 100, "computing (%)"),
        ("memory_bytes", 1e-6, "MB"),
    )
    for axis, (field, scale, title) in zip(axes, panels):
        for method in dict.fromkeys(r["method"] for r in rows):
            for shade, steps in enumerate(sorted({r["J"] for r in rows})):
                line = [r for r in rows if r["method"] == method and r["J"] == steps]
                style = ("-", "--", ":", "-.")[shade % 4]
                colour = f"C{METHODS.index(method)}"
                values = [scale * r[field] for r in line]
                axis.plot(
                    [r["S"] for r in line],
                    values,
                    style,
                    color=colour,
                    label=f"{method}, J={steps}",
                    marker=".",
                )
        axis.set(xscale="log", xlabel="workers", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[2].set_yscale("log")
    axes[0].legend(fontsize=6)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"--{name} is a list of numbers above 0 such as 1,2,4, not {text!r}")
    return numbers


def _link(own: argparse.Namespace, config: Config) -> Link:
    """The link that was asked for, else the config's, else one of 1 Gbit/s and 1 ms; written back to `own`."""
    own.bandwidth = own.bandwidth or config.link.bandwidth or "1Gbps"
    own.latency = own.latency or (config.link.latency if config.link.bandwidth else "1ms")
    return Link(
        quantities.bytes_per_second(own.bandwidth, "--bandwidth"),
        quantities.seconds(own.latency, "--latency"),
    )


def _plan(argv: Sequence[str]) -> None:
    parser = Parser(
        prog="ist_jax.cli.commands.plan",
        description=__doc__,
        formatter_class=RawText,
        allow_abbrev=False,
    )
    for name in ("bandwidth", "latency", "out"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--subnets", default=",".join(map(str, SUBNETS)))
    parser.add_argument("--local_steps", default=",".join(map(str, LOCAL_STEPS)))
    parser.add_argument("--repeats", type=int, default=5)
    own, rest = parser.parse_known_args(argv)
    subnets, local_steps = (
        _whole_numbers("subnets", own.subnets),
        _whole_numbers("local_steps", own.local_steps),
    )
    configs = [configured(method, rest) for method in METHODS]
    link = _link(own, configs[0])
    dataset, rows = builders.dataset(configs[0]), []
    for config, num_subnets in itertools.product(configs, subnets):
        try:
            found = measure(config, dataset, num_subnets, max(own.repeats, 1))
        except ConfigError as error:
            print(f"{config.method}, S={num_subnets}: left out ({error})", file=sys.stderr)
            continue
        rows += [row(found, steps, link) for steps in local_steps]
    _show(
        rows,
        ASSUMPTIONS.format(
            **vars(own), device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
        ),
        own.out,
    )


def _show(rows: Sequence[dict[str, Any]], assumptions: str, out: str) -> None:
    text = f"{table(rows)}\n{assumptions}"
    print(text)
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "plan.md", text)
        write_whole(folder / "plan.json", json.dumps(list(rows), indent=1) + "\n")
        draw(rows, folder / "plan.png")


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    return exit_status(lambda: _plan(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
