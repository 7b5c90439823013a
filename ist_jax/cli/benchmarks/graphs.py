"""How fast sub-GCNs train on one device, against whole GCNs, as ratios within one run:

    python -m ist_jax.cli.benchmarks.graphs [--quick] [--cora=DIR] [--cora_only] [--out=DIR]

Times a step of all m sub-GCNs on the whole graph, looped or vmapped, whichever is faster, their exchange included (a GCN of
three layers with hidden 256, 20 local steps a round; dropout of hidden features, as in the authors' small-scale script),
against m steps of the whole GCN, and against what operations and traffic with memory would allow: on Cora, where DIR holds the
files ind.cora.*, on the graph of the digits, and on a generated graph of 100,000 nodes and 2,000,000 edges; and how a step
grows with the nodes. On Cora also as runs train by default, with dropout of the input, and inference, of the whole model and of
an ensemble. With --cora_only, on Cora alone. Prints a table, and writes graph_benchmark.json, or graph_benchmark_cora.json, to
--out. Milliseconds depend on the machine and on what else runs there. Expect ten minutes on 2 CPU cores, one with --quick.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ist_jax import data, ensemble, ist
from ist_jax.cli.benchmarks.rounds import described, exponent, machine
from ist_jax.cli.benchmarks.timing import Round, median_seconds, round_of
from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.core.graphs import SparseMatrix
from ist_jax.core.placement import Placement, looped, vmapped
from ist_jax.data import Dataset, GraphOptions, RawGraph, make_graph_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import Decomposition, gcn
from ist_jax.methods import Method as Algorithm
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


def entries(matrix: SparseMatrix) -> int:
    """Of a sparse matrix, those that are not zero."""
    return sum(map(np.count_nonzero, matrix.rows.value))


def generated(nodes: int, edges: int, features: int = 128, classes: int = 40) -> Dataset:
    """A random graph, every edge in both directions; half of the nodes train."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(nodes, features)).astype(np.float32), np.arange(nodes) % classes
    part = rng.integers(0, 4, nodes)
    part[:classes] = 0
    raw = RawGraph(x, y, rng.integers(0, nodes, (2, edges)), part < 2, part == 2, part == 3)
    return make_graph_dataset(raw, "generated", source="generated", options=OPTIONS, shards=shared)


def _split(found: Dataset, hidden: int, num_subnets: int, **model: Any) -> Decomposition:
    network = GCN((hidden,) * (LAYERS - 1), found.num_classes, norm="layer", dropout=0.5, **model)
    return gcn(network, *found.spec.example_shape, num_subnets=num_subnets)


def graph_round(
    found: Dataset,
    hidden: int,
    num_subnets: int,
    steps: int,
    placement: Placement | None = None,
    input_dropout: bool = False,
) -> Round:
    """A compiled round of sub-GCNs on the whole graph of `found`; looped by default."""
    split = _split(found, hidden, num_subnets, input_dropout=input_dropout)
    options = dict(batch_size=1, placement=placement or looped())
    return round_of(ist(split, node_classification(), optax.adam(0.01), **options), found, steps)


def inference(
    found: Dataset, hidden: int, num_subnets: int, method: Callable[..., Algorithm]
) -> Callable[[], Any]:
    """A function that classifies all nodes by the model, or the ensemble, of a method's first state."""
    task = node_classification()
    algorithm = method(_split(found, hidden, num_subnets), task, optax.adam(0.01), batch_size=1)
    batch = task.batch(found.on_device("test", algorithm.sharding), jnp.arange(1), None)
    predictor = jax.jit(algorithm.predictor)(algorithm.fresh(jax.random.key(0)), None)
    return functools.partial(jax.jit(lambda predict, batch: predict(batch)), predictor, batch)


def inference_rows(name: str, found: Dataset, sizes: Sizes) -> list[list[str]]:
    """The whole GCN, of which there is one whatever m was, against the ensemble of m sub-GCNs (the paper's Table 7)."""
    several = [m for m in sizes.subnets if m > 1]
    runs = [
        inference(found, sizes.hidden, m, method) for method in (ist, ensemble) for m in several
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


def _sums(found: Dataset, width: int) -> list[tuple[SparseMatrix, int]]:
    """(sparse matrix, width of what it is multiplied with) of a step; of logits and last features the narrower."""
    graph = found.arrays("train")["graph"]
    first = (graph.features,) if isinstance(graph.features, SparseMatrix) else ()
    *below, last = graph.blocks
    return [(matrix, width) for matrix in (*first, *below)] + [
        (last, min(width, found.num_classes))
    ]


def _products(found: Dataset, width: int) -> list[tuple[int, int, int, int]]:
    """(rows, width before, width after, how many products: backward, too) of dense matrices; constant ones have no gradient."""
    graph, classes = found.arrays("train")["graph"], found.num_classes
    first = [] if isinstance(graph.features, SparseMatrix) else [(*graph.features.shape, width, 2)]
    middle, last = graph.blocks[-2:]
    narrower = middle.shape[0] if classes < width else last.shape[0]  # what is narrower is summed
    return [*first, (middle.shape[0], width, width, 3), (narrower, width, classes, 3)]


def flops(found: Dataset, hidden: int, num_subnets: int) -> float:
    """Multiplications and additions of a step of one sub-GCN: products and sums over neighbours, both forward and backward."""
    width = hidden // num_subnets
    products = sum(
        rows * before * after * count for rows, before, after, count in _products(found, width)
    )
    return 2.0 * (
        products + sum(2 * entries(matrix) * wide for matrix, wide in _sums(found, width))
    )


def moved(found: Dataset, hidden: int, num_subnets: int) -> float:
    """Bytes that a step of one sub-GCN reads and writes at least, if no cache keeps any: rows that sums add up and make, both
    ways; what dense products take and make; hidden features between them; parameters, gradients and Adam's moments."""
    width = hidden // num_subnets
    middle, last = found.arrays("train")["graph"].blocks[-2:]
    sums = sum(
        (2 * entries(matrix) + sum(matrix.shape)) * wide for matrix, wide in _sums(found, width)
    )
    products = sum(
        rows * (before + after) * count for rows, before, after, count in _products(found, width)
    )
    between = (
        5 * (middle.shape[1] + last.shape[1]) * width
    )  # read and written forward; gradient and value read, one written
    parameters = (
        found.spec.example_shape[0] * width
        + width
        + width * width
        + width
        + (width + 1) * found.num_classes
    )
    return 4.0 * (sums + products + between + 8 * parameters)


def subnet_rows(
    name: str,
    found: Dataset,
    sizes: Sizes,
    steps: int,
    authors: dict[int, int],
    input_dropout: bool = False,
) -> list[list[str]]:
    """A step of all m sub-GCNs for every m, against m steps of the whole GCN: the faster placement, or, with dropout of the
    input, both."""
    ways = [
        (m, placement)
        for m in sizes.subnets
        for placement in ((looped(), vmapped()) if m > 1 else (looped(),))
    ]
    runs = [
        graph_round(found, sizes.hidden, m, steps, placement, input_dropout).run
        for m, placement in ways
    ]
    seconds = median_seconds(runs, sizes.repeats if steps == 1 else sizes.often)
    timed = [(value / steps, placement.name) for value, (_, placement) in zip(seconds, ways)]
    rows, costs = [], lambda m: (flops(found, sizes.hidden, m), moved(found, sizes.hidden, m))
    for m in sizes.subnets:
        found_m = [one for one, (number, _) in zip(timed, ways) if number == m]
        for value, place in found_m if input_dropout else [min(found_m)]:
            what = f"{name}: the whole GCN" if m == 1 else f"{name}: {m} sub-GCNs, {place}"
            by_arithmetic = [cost / whole for cost, whole in zip(costs(m), costs(1))]
            ratios = [value / (m * timed[0][0]), *by_arithmetic, value / timed[0][0]]
            ours = f"{authors[m] / (1e3 * value):.1f}" if m in authors else ""
            rows.append([what, f"{1e3 * value:,.1f}", *(f"{ratio:.3f}" for ratio in ratios), ours])
    return rows


def growth(sizes: Sizes) -> tuple[list[list[str]], float]:
    """A step of the most sub-GCNs over the number of nodes, with as many edges to a node; and the power it grows with."""
    counts = [sizes.nodes // share for share in (8, 4, 2, 1)]
    made = [generated(nodes, nodes * (sizes.edges // sizes.nodes)) for nodes in counts]
    seconds = median_seconds(
        [graph_round(one, sizes.hidden, sizes.subnets[-1], 1).run for one in made], sizes.repeats
    )
    rows = [
        [
            f"{nodes:,} nodes: {sizes.subnets[-1]} sub-GCNs",
            f"{1e3 * value:,.1f}",
            "",
            "",
            "",
            "",
            "",
        ]
        for nodes, value in zip(counts, seconds)
    ]
    return rows, exponent(counts, seconds)


def _benchmark(argv: Sequence[str]) -> None:
    parser = Parser(
        prog="ist_jax.cli.benchmarks.graphs", description=__doc__, formatter_class=RawText
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cora", default="")
    parser.add_argument("--cora_only", action="store_true")
    parser.add_argument("--out", default="")
    chosen = parser.parse_args(argv)
    sizes = QUICK if chosen.quick else FULL
    if chosen.cora_only and not chosen.cora:
        raise ConfigError("--cora_only leaves out all but Cora: --cora=DIR is missing")
    rows: list[list[str]] = []
    if chosen.cora:
        cora = data.load("planetoid", chosen.cora, "cora", graph=OPTIONS)
        rows += subnet_rows("Cora", cora, sizes, sizes.steps, AUTHORS_MS if sizes is FULL else {})
        rows += subnet_rows(
            "Cora, dropout of the input, too",
            cora,
            sizes,
            sizes.steps,
            AUTHORS_MS if sizes is FULL else {},
            True,
        )
        rows += inference_rows("Cora", cora, sizes)
    note = described(machine())
    if not chosen.cora_only:
        rows += subnet_rows(
            "digits", data.load("digits_graph", graph=OPTIONS), sizes, sizes.steps, {}
        )
        named = f"{sizes.nodes:,} nodes, {sizes.edges:,} edges"
        rows += subnet_rows(named, generated(sizes.nodes, sizes.edges), sizes, 1, {})
        grown, power = growth(sizes)
        rows, note = rows + grown, f"A step grows with the power {power:.2f} of the nodes.\n{note}"
    print(f"{markdown(HEADER, rows)}\n{note}")
    if chosen.out:
        content: dict[str, Any] = {"header": HEADER, "rows": rows, "note": note}
        folder = pathlib.Path(chosen.out)
        folder.mkdir(parents=True, exist_ok=True)
        name = "graph_benchmark_cora.json" if chosen.cora_only else "graph_benchmark.json"
        write_whole(folder / name, json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    return exit_status(lambda: _benchmark(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
