"""How fast rounds are on this machine, as ratios within one run:

    python -m ist_jax.cli.benchmarks.rounds [--quick] [--out=DIR]

Times rounds of IST against local steps written by hand, against plain matrix products and against data parallel in its best
form on one device; synchronisations; costs against S and width; a mesh of 8 CPU devices (in a process of its own); the work
of the authors' release in their sizes. Prints a table, and writes benchmark.json to DIR. Only ratios of one run mean
something. Expect ten minutes on 2 CPU cores, one with --quick.
"""

import datetime
import functools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ist_jax.analysis.machine import cores, processor
from ist_jax.cli.benchmarks.timing import (
    BATCH,
    Network,
    Round,
    by_hand,
    median_seconds,
    network_round,
    product_flops,
    products,
    swap,
)
from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records.record import git_revision
from ist_jax.core.placement import make_placement
from ist_jax.training.files import write_whole


class Sizes(NamedTuple):
    """How much is timed."""

    network: Network
    subnets: tuple[int, ...]
    widths: tuple[int, ...]
    authors: tuple[Network, ...]
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    repeats: int


def _speech(*hidden: int, num_subnets: int) -> Network:
    return Network(4096, hidden, 35, num_subnets)


FULL = Sizes(
    Network(784, (1024, 1024), 10, 4),
    (1, 2, 4, 8),
    (512, 1024, 2048, 4096),
    (
        *(_speech(4096, num_subnets=n) for n in (2, 4)),
        *(_speech(4096, 4096, num_subnets=n) for n in (2, 4)),
    ),
    tuple(1 << power for power in range(10, 23, 2)),
    (20, 100),
    7,
)
LEAVES = 6
# (features, hidden, S): seconds of a step of all workers, and of a repartition, of the authors' PyTorch release: torch 2.13,
# one thread per worker, all side by side on 2 cores, batch 128 each, medians of three runs, measured apart, on another day
AUTHORS = {
    (4096, (4096,), 2): (0.051, 0.119),
    (4096, (4096,), 4): (0.041, 0.157),
    (4096, (4096, 4096), 2): (0.080, 0.342),
    (4096, (4096, 4096), 4): (0.056, 0.292),
}
# (features, hidden, batch): a step of their full network, in one process with 2 threads
AUTHORS_WHOLE = {(4096, (4096,), 128): 0.057, (4096, (4096,), 256): 0.085}
QUICK = Sizes(
    Network(64, (64, 64), 10, 4), (1, 4), (64, 128), (Network(64, (64,), 10, 2),), (1024,), (5,), 1
)

Row = dict[str, Any]


def _row(what: str, seconds: float, reference: float, of: str, made: Round | None = None) -> Row:
    row = {"what": what, "seconds": seconds, "ratio": seconds / reference, "to": of}
    return row | ({"compilation": made.compilation} if made else {})


def round_rows(sizes: Sizes) -> list[Row]:
    """Rounds against steps by hand, and both against plain matrix products."""
    network, found = sizes.network, []
    by_rule = make_placement("auto", network.num_subnets, 1).name
    for steps in sizes.steps:
        rounds = {
            place: network_round(network, steps, place=place) for place in ("looped", "vmapped")
        }
        alone, given = products(network, steps)
        runs = [
            by_hand(network, steps),
            functools.partial(alone, *given),
            *(made.run for made in rounds.values()),
        ]
        hand, least, *seconds = (value / steps for value in median_seconds(runs, sizes.repeats))
        for (place, made), value in zip(rounds.items(), seconds):
            what = f"round of {steps} steps, {place}{' (the rule)' if place == by_rule else ''}, {network.name}"
            found.append(_row(what, value, hand, "steps by hand", made))
        rate = network.num_subnets * product_flops(network) / 1e9
        made_of = f"{steps} steps by hand, {network.name}: {rate / hand:,.0f} GFLOP/s"
        found.append(
            _row(made_of, hand, least, f"their matrix products alone: {rate / least:,.0f} GFLOP/s")
        )
    return found


def method_rows(sizes: Sizes, place: str) -> list[Row]:
    """IST against data parallel per sample; on one device, in data parallel's best form there."""
    found, steps = [], sizes.steps[0]
    for num_subnets in sizes.subnets:
        network = sizes.network._replace(num_subnets=num_subnets)
        best = (
            dict(method="single", batch=num_subnets * BATCH)
            if place == "auto"
            else dict(method="data_parallel", place=place)
        )
        ours, theirs = (
            network_round(network, steps, place=place),
            network_round(network, steps, **best),
        )
        seconds, other = median_seconds([ours.run, theirs.run], sizes.repeats)
        where = (
            "one device" if place == "auto" else f"{min(num_subnets, len(jax.devices()))} devices"
        )
        found.append(
            _row(
                f"IST step, {where}, {network.name}",
                seconds / steps,
                other / steps,
                "data parallel",
                ours,
            )
        )
    return found


def sync_rows(sizes: Sizes, place: str) -> list[Row]:
    """Synchronisations against a local step of all workers; with their bytes."""
    found, steps = [], sizes.steps[0]
    for resident in (False, True):
        sync, whole = (
            network_round(sizes.network, n, place=place, home_sharded=resident) for n in (0, steps)
        )
        seconds, of_round = median_seconds([sync.run, whole.run], sizes.repeats)
        way = "all units come home" if resident else "units travel"
        what = f"synchronisation, {way}, {place}, {sizes.network.name}"
        row, costs = _row(what, seconds, of_round / steps, "a step", sync), sync.algorithm.costs
        found.append(
            row | {"bytes_per_device": costs.bytes_per_sync, "lower_bound": costs.lower_bound}
        )
    return found


def packing_rows(sizes: Sizes) -> list[Row]:
    """Small leaves in one collective against one collective each, where `exchange.transport.PACK_BELOW` draws the line."""
    found = []
    for num_bytes in sizes.blocks:
        packed, apart = median_seconds(
            [swap(num_bytes, LEAVES, way) for way in (True, False)], 5 * sizes.repeats
        )
        found.append(
            _row(
                f"{LEAVES} leaves of {num_bytes:,} bytes per device, packed",
                packed,
                apart,
                "one collective each",
            )
        )
    return found


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of a line through the logarithms."""
    return float(np.polyfit([math.log(x) for x in xs], [math.log(y) for y in ys], 1)[0])


def scaling_rows(sizes: Sizes) -> list[Row]:
    """A step of one worker over S (its hidden products are a share of 1 / S^2) and over the width."""
    over_s = {f"S={n}": sizes.network._replace(num_subnets=n) for n in sizes.subnets}
    over_width = {f"width {w}": sizes.network._replace(hidden=(w, w)) for w in sizes.widths}
    return [*_growth(sizes, over_s, sizes.subnets), *_growth(sizes, over_width, sizes.widths)]


def _growth(sizes: Sizes, networks: dict[str, Network], xs: Sequence[int]) -> list[Row]:
    steps, first = sizes.steps[0], next(iter(networks))
    seconds = median_seconds(
        [network_round(network, steps).run for network in networks.values()], sizes.repeats
    )
    each = [
        value / steps / network.num_subnets for value, network in zip(seconds, networks.values())
    ]
    rows = [
        _row(f"one worker's step, {name}", value, each[0], first)
        for name, value in zip(networks, each)
    ]
    rows[-1]["exponent"] = exponent(xs, each)
    return rows


def author_rows(sizes: Sizes) -> list[Row]:
    """The sizes that were timed with the authors' release: a step of all workers, exchange included, and a repartition."""
    found, steps = [], sizes.steps[0]
    for network in sizes.authors:
        whole, sync = network_round(network, steps), network_round(network, 0)
        of_round, seconds, hand = median_seconds(
            [whole.run, sync.run, by_hand(network, steps)], sizes.repeats
        )
        step = of_round / steps
        rows = [
            _row(
                f"step of all workers, {network.name}", step, hand / steps, "steps by hand", whole
            ),
            _row(f"repartition, {network.name}", seconds, step, "a step"),
        ]
        if theirs := AUTHORS.get((network.features, network.hidden, network.num_subnets)):
            rows = [row | {"authors_seconds": value} for row, value in zip(rows, theirs)]
        found += rows
    return [*found, *_whole_rows(sizes.authors[0]._replace(num_subnets=1), steps, sizes.repeats)]


def _whole_rows(network: Network, steps: int, repeats: int) -> list[Row]:
    """A step of the whole network, plain training, by batch."""
    found, batches = [], (BATCH, 2 * BATCH)
    rounds = [network_round(network, steps, method="single", batch=batch) for batch in batches]
    seconds = [value / steps for value in median_seconds([made.run for made in rounds], repeats)]
    for batch, made, value in zip(batches, rounds, seconds):
        row = _row(
            f"step of the whole network, batch {batch}, {network.name}",
            value,
            seconds[0],
            "the first",
            made,
        )
        theirs = AUTHORS_WHOLE.get((network.features, network.hidden, batch))
        found.append(row | ({"authors_seconds": theirs} if theirs else {}))
    return found


def machine() -> dict[str, Any]:
    return {
        "revision": git_revision(),
        "date": datetime.date.today().isoformat(),
        "platform": platform.platform(terse=True),
        "processor": processor(),
        "cores": cores(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "jax": jax.__version__,
    }


def described(machine: dict[str, Any]) -> str:
    """The machine in words."""
    kinds = machine["devices"]
    kind = (
        f"{machine['processor']}, " if machine.get("processor") not in (None, "x86_64") else ""
    )  # of older records
    made = f", {machine['date']}, revision {machine['revision']}" if "revision" in machine else ""
    return f"{kind}{machine['platform']}, {machine['cores']} cores, {len(kinds)} x {kinds[0]}, JAX {machine['jax']}{made}"


def _on_mesh(quick: bool) -> list[Row]:
    """The rows of a mesh of 8 CPU devices, from a process of its own: a process has one number of devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        "-m",
        "ist_jax.cli.benchmarks.rounds",
        "--part=mesh",
        *(["--quick"] if quick else []),
    ]
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True
    )  # its errors are seen as they come
    if ended.returncode:
        raise ConfigError(
            f"the part on a mesh of 8 CPU devices ended with status {ended.returncode}"
        )
    return json.loads(ended.stdout.splitlines()[-1])


def _mesh_part(sizes: Sizes) -> list[Row]:
    return [*method_rows(sizes, "sharded"), *sync_rows(sizes, "sharded"), *packing_rows(sizes)]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| what | ms | ratio | to | more |", "| --- | ---: | ---: | --- | --- |"]
    for row in rows:
        more = [f"compiled in {row['compilation']:.1f} s"] if "compilation" in row else []
        more += [f"grows with the power {row['exponent']:.2f}"] if "exponent" in row else []
        more += (
            [f"authors' release, on another day: {1e3 * row['authors_seconds']:.0f} ms"]
            if "authors_seconds" in row
            else []
        )
        if "bytes_per_device" in row:
            times = row["bytes_per_device"] / row["lower_bound"]
            more.append(f"{row['bytes_per_device']:,.0f} bytes per device, {times:.2f} x the bound")
        lines.append(
            f"| {row['what']} | {1e3 * row['seconds']:,.2f} | {row['ratio']:.3f} | {row['to']} | {'; '.join(more)} |"
        )
    return "\n".join(lines) + "\n"


def _benchmark(argv: Sequence[str]) -> None:
    parser = Parser(
        prog="ist_jax.cli.benchmarks.rounds", description=__doc__, formatter_class=RawText
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", default="")
    parser.add_argument("--part", default="", choices=["", "mesh"])
    chosen = parser.parse_args(argv)
    sizes = QUICK if chosen.quick else FULL
    if chosen.part == "mesh":
        print(json.dumps(_mesh_part(sizes)))
        return
    rows = [
        *round_rows(sizes),
        *method_rows(sizes, "auto"),
        *sync_rows(sizes, "auto"),
        *scaling_rows(sizes),
    ]
    rows += [*author_rows(sizes), *_on_mesh(chosen.quick)]
    print(f"{markdown(rows)}\n{described(machine())}")
    if chosen.out:
        folder = pathlib.Path(chosen.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(
            folder / "benchmark.json",
            json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n",
        )
        write_whole(folder / "benchmark.md", markdown(rows))


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    return exit_status(lambda: _benchmark(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
