"""Times sub-GCNs on one device, against full GCNs.

    ist-jax benchmark graphs [--quick] [--cora DIR [--cora-only]] [--out DIR]

A step of all m sub-GCNs on the full graph, in the faster of the placements looped and vmapped and
with its share of the exchange, is compared with m steps of the full GCN, and with what operations
and memory traffic would allow. The GCN has three layers with hidden 256 and dropout of hidden
features, as in the authors' small-scale script; a round has 20 local steps. The graphs are Cora (if
--cora is given), the graph of the digits, and a generated graph of 100,000 nodes and 2,000,000
edges. A further row says how a step grows with the number of nodes. Cora has more rows: with
dropout of the input, the default of runs; and inference, of the full model and of an ensemble.

Only ratios within one run are comparable: milliseconds depend on the machine and its load. Expect
ten minutes on 2 CPU cores, one with --quick.
"""

import dataclasses
import functools
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
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.core.placement import Placement, looped, vmapped
from ist_jax.data import Dataset, GraphOptions, RawGraph, make_graph_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import Decomposition, gcn
from ist_jax.methods import Method, ensemble, ist
from ist_jax.models import GCN
from ist_jax.tasks import node_classification
from ist_jax.training.files import json_text, write_whole

LAYERS = 3
# m -> ms of an epoch of all sub-GCNs of Cora, by PyTorch and DGL on 2 CPU cores
AUTHORS_MS = {1: 57, 2: 61, 4: 73, 8: 93}
HEADER = [
    "step of",
    "ms",
    "of so many full GCNs",
    "by FLOPs",
    "by bytes",
    "of one full GCN",
    "the authors' ms / ours",
]


@dataclasses.dataclass(frozen=True)
class GraphsFlags:
    """The flags of `ist-jax benchmark graphs`."""

    quick: bool = False
    """Small sizes; takes a minute."""
    cora: str = ""
    """Folder of Cora's eight files ind.cora.*."""
    cora_only: bool = False
    """Leave out all graphs but Cora."""
    out: PathText = ""
    """Folder for graph_benchmark.json (graph_benchmark_cora.json with --cora-only)."""


class Sizes(NamedTuple):
    """The sizes of what is timed.

    Attributes:
      nodes, edges: of the generated graph.
      hidden: width of the hidden layers.
      subnets: numbers m of sub-GCNs.
      steps: local steps of a round.
      repeats: of programs that take long.
      often: repeats of programs that take milliseconds.
    """

    nodes: int
    edges: int
    hidden: int
    subnets: tuple[int, ...]
    steps: int
    repeats: int
    often: int


FULL, QUICK = (
    Sizes(100_000, 2_000_000, 256, (1, 2, 4, 8), 20, 5, 31),
    Sizes(1600, 8_000, 16, (1, 4), 2, 1, 1),
)
OPTIONS = GraphOptions("symmetric", layers=LAYERS, sparse_below=0.1)


def generated(nodes: int, edges: int, features: int = 128, classes: int = 40) -> Dataset:
    """A random graph. Half of the nodes are training nodes."""
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
    """A compiled round of sub-GCNs on the full graph of `dataset`; looped by default."""
    split = _split(dataset, hidden, num_subnets, input_dropout=input_dropout)
    task, tx = node_classification(), optax.adam(0.01)
    method = ist(split, task, tx, batch_size=1, placement=placement or looped())
    return round_of(method, dataset, steps)


def inference(
    dataset: Dataset, hidden: int, num_subnets: int, make: Callable[..., Method]
) -> Callable[[], Any]:
    """A program that classifies all nodes by the model, or ensemble, of a method's first state."""
    task = node_classification()
    method = make(_split(dataset, hidden, num_subnets), task, optax.adam(0.01), batch_size=1)
    batch = task.batch(dataset.on_device("test", method.sharding), jnp.arange(1), None)
    predictor = jax.jit(method.predictor)(method.fresh(jax.random.key(0)), None)
    return functools.partial(jax.jit(lambda predict, batch: predict(batch)), predictor, batch)


def inference_rows(name: str, dataset: Dataset, sizes: Sizes) -> list[list[str]]:
    """Inference by the full GCN after training m sub-GCNs, and by an ensemble of m (Table 7)."""
    several = [m for m in sizes.subnets if m > 1]
    runs = [
        inference(dataset, sizes.hidden, m, method) for method in (ist, ensemble) for m in several
    ]
    seconds = median_seconds(runs, sizes.often)
    kinds = ("the full GCN after {} sub-GCNs", "an ensemble of {}")
    names = [f"{name}: inference by {kind.format(m)}" for kind in kinds for m in several]
    return [
        [what, f"{1e3 * value:,.1f}", "", "", "", f"{value / seconds[0]:.3f}", ""]
        for what, value in zip(names, seconds)
    ]


def subnet_rows(
    name: str,
    dataset: Dataset,
    sizes: Sizes,
    steps: int,
    authors: dict[int, int],
    input_dropout: bool = False,
) -> list[list[str]]:
    """A step of all m sub-GCNs for every m, against m steps of the full GCN.

    The faster placement has a row; with `input_dropout`, both placements have one.
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
    costs = {
        m: [cost(dataset, sizes.hidden, m) for cost in (flops, moved)] for m in (1, *sizes.subnets)
    }
    rows = []
    for m in sizes.subnets:
        timed_m = [one for one, (number, _) in zip(timed, ways) if number == m]
        for value, place in timed_m if input_dropout else [min(timed_m)]:
            what = f"{name}: the full GCN" if m == 1 else f"{name}: {m} sub-GCNs, {place}"
            by_arithmetic = [cost / full for cost, full in zip(costs[m], costs[1])]
            ratios = [value / (m * timed[0][0]), *by_arithmetic, value / timed[0][0]]
            ours = f"{authors[m] / (1e3 * value):.1f}" if m in authors else ""
            rows.append([what, f"{1e3 * value:,.1f}", *(f"{ratio:.3f}" for ratio in ratios), ours])
    return rows


def growth(sizes: Sizes) -> tuple[list[list[str]], float]:
    """Rows of a step over the number of nodes, and the power of the nodes with which it grows.

    They are for the largest m. All graphs have equally many edges per node.
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
    """The rows of the other graphs, and the power of the nodes with which a step grows."""
    digits = data.load("digits_graph", graph=OPTIONS)
    rows = subnet_rows("digits", digits, sizes, sizes.steps, {})
    named = f"{sizes.nodes:,} nodes, {sizes.edges:,} edges"
    rows += subnet_rows(named, generated(sizes.nodes, sizes.edges), sizes, 1, {})
    grown, power = growth(sizes)
    return rows + grown, power


def _benchmark(flags: GraphsFlags) -> None:
    sizes, note = QUICK if flags.quick else FULL, described(machine())
    if flags.cora_only and not flags.cora:
        raise ConfigError("--cora-only needs --cora DIR, the folder of Cora")
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
        write_whole(folder / name, json_text(content, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _benchmark(parse(GraphsFlags, argv, __doc__)))
