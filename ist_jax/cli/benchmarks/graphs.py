"""How fast sub-GCNs train on one device, against whole GCNs: ist-jax benchmark graphs.

Times a step of all m sub-GCNs on the whole graph, looped or vmapped, whichever is faster, with
their exchange (a GCN of three layers with hidden 256, 20 local steps a round; dropout of hidden
features, as in the authors' small-scale script), against m steps of the whole GCN, and against what
operations and memory traffic would allow: on Cora, if --cora is given, on the graph of the digits,
and on a generated graph of 100,000 nodes and 2,000,000 edges; and how a step grows with the nodes.
On Cora also as runs train by default, with dropout of the input, and inference, of the full model
and of an ensemble. Ratios of one run only: milliseconds depend on the machine and on what else runs
there. Expect ten minutes on 2 CPU cores, one with --quick.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ist_jax import data
from ist_jax.cli.benchmarks.graph_costs import flops, moved
from ist_jax.cli.benchmarks.machine import described, exponent, machine
from ist_jax.cli.benchmarks.timing import Round, median_seconds, round_of
from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.core.placement import Placement, looped, vmapped
from ist_jax.data import Dataset, GraphOptions, RawGraph, make_graph_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import Decomposition, gcn
from ist_jax.methods import Method, ensemble, ist
from ist_jax.models import GCN
from ist_jax.tasks import node_classification
from ist_jax.training.files import write_whole

LAYERS = 3
AUTHORS_MS = {
    1: 57,
    2: 61,
    4: 73,
    8: 93,
}  # an epoch of all sub-GCNs of Cora: PyTorch and DGL, 2 CPU cores
HEADER = [
    "step of",
    "ms",
    "of so many whole GCNs",
    "by FLOPs",
    "by bytes",
    "of one whole GCN",
    "the authors' ms / ours",
]


@dataclasses.dataclass(frozen=True)
class GraphsFlags:
    """The flags of `ist-jax benchmark graphs`."""

    quick: bool = False
    """Small sizes, a minute."""
    cora: str = ""
    """Folder of Cora's eight files ind.cora.*."""
    cora_only: bool = False
    """Cora alone."""
    out: str = ""
    """Folder for graph_benchmark.json (graph_benchmark_cora.json with --cora-only)."""


class Sizes(NamedTuple):
    """How much is timed."""

    nodes: int
    edges: int
    hidden: int
    subnets: tuple[int, ...]
    steps: int
    repeats: int
    often: int  # repeats of what takes milliseconds


FULL, QUICK = (
    Sizes(100_000, 2_000_000, 256, (1, 2, 4, 8), 20, 5, 31),
    Sizes(1600, 8_000, 16, (1, 4), 2, 1, 1),
)
OPTIONS = GraphOptions("symmetric", layers=LAYERS, sparse_below=0.1)


def generated(nodes: int, edges: int, features: int = 128, classes: int = 40) -> Dataset:
    """A random graph, every edge in both directions; half of the nodes train."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(nodes, features)).astype(np.float32), np.arange(nodes) % classes
    part = rng.integers(0, 4, nodes)
    part[:classes] = 0
    raw = RawGraph(x, y, rng.integers(0, nodes, (2, edges)), part < 2, part == 2, part == 3)
    return make_graph_dataset(raw, "generated", source="generated", options=OPTIONS, shards=shared)


def _split(dataset: Dataset, hidden: int, num_subnets: int, **model: Any) -> Decomposition:
    network = GCN((hidden,) * (LAYERS - 1), dataset.num_classes, norm="layer", dropout=0.5, **model)
    return gcn(network, *dataset.spec.example_shape, num_subnets=num_subnets)


def graph_round(
    dataset: Dataset,
    hidden: int,
    num_subnets: int,
    steps: int,
    placement: Placement | None = None,
    input_dropout: bool = False,
) -> Round:
    """A compiled round of sub-GCNs on the whole graph of `dataset`; looped by default."""
    split = _split(dataset, hidden, num_subnets, input_dropout=input_dropout)
    task, tx = node_classification(), optax.adam(0.01)
    method = ist(split, task, tx, batch_size=1, placement=placement or looped())
    return round_of(method, dataset, steps)


def inference(
    dataset: Dataset, hidden: int, num_subnets: int, make: Callable[..., Method]
) -> Callable[[], Any]:
    """Classifies all nodes by the model, or the ensemble, of a method's first state."""
    task = node_classification()
    method = make(_split(dataset, hidden, num_subnets), task, optax.adam(0.01), batch_size=1)
    batch = task.batch(dataset.on_device("test", method.sharding), jnp.arange(1), None)
    predictor = jax.jit(method.predictor)(method.fresh(jax.random.key(0)), None)
    return functools.partial(jax.jit(lambda predict, batch: predict(batch)), predictor, batch)


def inference_rows(name: str, dataset: Dataset, sizes: Sizes) -> list[list[str]]:
    """The whole GCN, whatever m was, against the ensemble of m sub-GCNs (the paper's Table 7)."""
    several = [m for m in sizes.subnets if m > 1]
    runs = [
        inference(dataset, sizes.hidden, m, method) for method in (ist, ensemble) for m in several
    ]
    seconds = median_seconds(runs, sizes.often)
    whole, members = seconds[: len(several)], seconds[len(several) :]
    show = lambda what, value, of: [
        f"{name}: inference {what}",
        f"{1e3 * value:,.1f}",
        "",
        "",
        "",
        f"{value / of:.3f}",
        "",
    ]
    rows = [
        show(f"by the whole GCN after {m} sub-GCNs", value, whole[0])
        for m, value in zip(several, whole)
    ]
    return rows + [
        show(f"by an ensemble of {m}", value, whole[0]) for m, value in zip(several, members)
    ]


def subnet_rows(
    name: str,
    dataset: Dataset,
    sizes: Sizes,
    steps: int,
    authors: dict[int, int],
    input_dropout: bool = False,
) -> list[list[str]]:
    """A step of all m sub-GCNs for every m, against m steps of the whole GCN.

    In the faster placement; in both with dropout of the input.
    """
    ways = [
        (m, placement)
        for m in sizes.subnets
        for placement in ((looped(), vmapped()) if m > 1 else (looped(),))
    ]
    runs = [
        graph_round(dataset, sizes.hidden, m, steps, placement, input_dropout).run
        for m, placement in ways
    ]
    seconds = median_seconds(runs, sizes.repeats if steps == 1 else sizes.often)
    timed = [(value / steps, placement.name) for value, (_, placement) in zip(seconds, ways)]
    rows, costs = [], lambda m: (flops(dataset, sizes.hidden, m), moved(dataset, sizes.hidden, m))
    for m in sizes.subnets:
        timed_m = [one for one, (number, _) in zip(timed, ways) if number == m]
        for value, place in timed_m if input_dropout else [min(timed_m)]:
            what = f"{name}: the whole GCN" if m == 1 else f"{name}: {m} sub-GCNs, {place}"
            by_arithmetic = [cost / whole for cost, whole in zip(costs(m), costs(1))]
            ratios = [value / (m * timed[0][0]), *by_arithmetic, value / timed[0][0]]
            ours = f"{authors[m] / (1e3 * value):.1f}" if m in authors else ""
            rows.append([what, f"{1e3 * value:,.1f}", *(f"{ratio:.3f}" for ratio in ratios), ours])
    return rows


def growth(sizes: Sizes) -> tuple[list[list[str]], float]:
    """A step of the most sub-GCNs over the number of nodes, and the power that it grows with.

    Every graph has as many edges to a node.
    """
    counts = [sizes.nodes // share for share in (8, 4, 2, 1)]
    made = [generated(nodes, nodes * (sizes.edges // sizes.nodes)) for nodes in counts]
    seconds = median_seconds(
        [graph_round(one, sizes.hidden, sizes.subnets[-1], 1).run for one in made], sizes.repeats
    )
    empty = [""] * (len(HEADER) - 2)
    rows = [
        [f"{nodes:,} nodes: {sizes.subnets[-1]} sub-GCNs", f"{1e3 * value:,.1f}", *empty]
        for nodes, value in zip(counts, seconds)
    ]
    return rows, exponent(counts, seconds)


def _cora_rows(folder: str, sizes: Sizes) -> list[list[str]]:
    cora = data.load("planetoid", folder, "cora", graph=OPTIONS)
    authors = AUTHORS_MS if sizes is FULL else {}
    rows = subnet_rows("Cora", cora, sizes, sizes.steps, authors)
    both = "Cora, dropout of the input, too"
    rows += subnet_rows(both, cora, sizes, sizes.steps, authors, True)
    return rows + inference_rows("Cora", cora, sizes)


def _other_rows(sizes: Sizes) -> tuple[list[list[str]], float]:
    """The rows of the other graphs, and the power of the nodes that a step grows with."""
    digits = data.load("digits_graph", graph=OPTIONS)
    rows = subnet_rows("digits", digits, sizes, sizes.steps, {})
    named = f"{sizes.nodes:,} nodes, {sizes.edges:,} edges"
    rows += subnet_rows(named, generated(sizes.nodes, sizes.edges), sizes, 1, {})
    grown, power = growth(sizes)
    return rows + grown, power


def _benchmark(flags: GraphsFlags) -> None:
    sizes, note = QUICK if flags.quick else FULL, described(machine())
    if flags.cora_only and not flags.cora:
        raise ConfigError("--cora-only leaves out all but Cora: --cora DIR is missing")
    rows = _cora_rows(flags.cora, sizes) if flags.cora else []
    if not flags.cora_only:
        others, power = _other_rows(sizes)
        rows, note = rows + others, f"A step grows with the power {power:.2f} of the nodes.\n{note}"
    print(f"{markdown(HEADER, rows)}\n{note}")
    if flags.out:
        content: dict[str, Any] = {"header": HEADER, "rows": rows, "note": note}
        folder = pathlib.Path(flags.out)
        folder.mkdir(parents=True, exist_ok=True)
        name = "graph_benchmark_cora.json" if flags.cora_only else "graph_benchmark.json"
        write_whole(folder / name, json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _benchmark(parse(GraphsFlags, argv, __doc__)))
