"""The rows of `ist-jax benchmark rounds`: what is timed, and against what."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ist_jax.cli.benchmarks.machine import exponent
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
from ist_jax.core.placement import make_placement

Row = dict[str, Any]


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
# (features, hidden, S): seconds of a step of all workers, and of a repartition, of the authors'
# PyTorch release: torch 2.13, one thread per worker, all side by side on 2 cores, batch 128 each,
# medians of three runs, measured on another day
AUTHORS = {
    (4096, (4096,), 2): (0.051, 0.119),
    (4096, (4096,), 4): (0.041, 0.157),
    (4096, (4096, 4096), 2): (0.080, 0.342),
    (4096, (4096, 4096), 4): (0.056, 0.292),
}
# (features, hidden, batch): a step of their full network, in one process with 2 threads
AUTHORS_WHOLE: dict[tuple[int, tuple[int, ...], int], float] = {
    (4096, (4096,), 128): 0.057,
    (4096, (4096,), 256): 0.085,
}
QUICK = Sizes(
    Network(64, (64, 64), 10, 4), (1, 4), (64, 128), (Network(64, (64,), 10, 2),), (1024,), (5,), 1
)


def _row(what: str, seconds: float, reference: float, of: str, made: Round | None = None) -> Row:
    row = {"what": what, "seconds": seconds, "ratio": seconds / reference, "to": of}
    return row | ({"compilation": made.compilation} if made else {})


def round_rows(sizes: Sizes) -> list[Row]:
    """Rounds against steps by hand, and both against plain matrix products."""
    return [row for steps in sizes.steps for row in _rounds_of(sizes, steps)]


def _rounds_of(sizes: Sizes, steps: int) -> list[Row]:
    network, places = sizes.network, ("looped", "vmapped")
    by_rule = make_placement("auto", network.num_subnets, 1).name
    rounds = [network_round(network, steps, place=place) for place in places]
    alone, given = products(network, steps)
    runs = [by_hand(network, steps), functools.partial(alone, *given), *(r.run for r in rounds)]
    hand, least, *seconds = (value / steps for value in median_seconds(runs, sizes.repeats))
    rows = []
    for place, made, value in zip(places, rounds, seconds):
        shown = f"{place} (the rule)" if place == by_rule else place
        what = f"round of {steps} steps, {shown}, {network.name}"
        rows.append(_row(what, value, hand, "steps by hand", made))
    flops = network.num_subnets * product_flops(network) / 1e9
    what = f"{steps} steps by hand, {network.name}: {flops / hand:,.0f} GFLOP/s"
    alone_says = f"their matrix products alone: {flops / least:,.0f} GFLOP/s"
    return [*rows, _row(what, hand, least, alone_says)]


def method_rows(sizes: Sizes, place: str) -> list[Row]:
    """IST against data parallel per sample; on one device, in data parallel's best form there."""
    rows, steps = [], sizes.steps[0]
    for num_subnets in sizes.subnets:
        network = sizes.network._replace(num_subnets=num_subnets)
        where, best = "one device", dict(name="single", batch=num_subnets * BATCH)
        if place != "auto":
            where = f"{min(num_subnets, len(jax.devices()))} devices"
            best = dict(name="data_parallel", place=place)
        ours = network_round(network, steps, place=place)
        theirs = network_round(network, steps, **best)
        seconds, other = median_seconds([ours.run, theirs.run], sizes.repeats)
        what = f"IST step, {where}, {network.name}"
        rows.append(_row(what, seconds / steps, other / steps, "data parallel", ours))
    return rows


def sync_rows(sizes: Sizes, place: str) -> list[Row]:
    """Synchronisations against a local step of all workers; with their bytes."""
    rows, network, steps = [], sizes.network, sizes.steps[0]
    for home_sharded in (False, True):
        sync, whole = (
            network_round(network, n, place=place, home_sharded=home_sharded) for n in (0, steps)
        )
        seconds, of_round = median_seconds([sync.run, whole.run], sizes.repeats)
        way = "all groups home-sharded" if home_sharded else "holder-sharded"
        what = f"synchronisation, {way}, {place}, {network.name}"
        costs, row = sync.method.costs, _row(what, seconds, of_round / steps, "a step", sync)
        sent = {"bytes_per_device": costs.bytes_per_sync, "lower_bound": costs.lower_bound}
        rows.append(row | sent)
    return rows


def packing_rows(sizes: Sizes) -> list[Row]:
    """Small leaves in one collective against one each; the limit is `exchange.transport`'s."""
    rows = []
    for num_bytes in sizes.blocks:
        runs = [swap(num_bytes, LEAVES, packed) for packed in (True, False)]
        packed, apart = median_seconds(runs, 5 * sizes.repeats)
        what = f"{LEAVES} leaves of {num_bytes:,} bytes per device, packed"
        rows.append(_row(what, packed, apart, "one collective each"))
    return rows


def scaling_rows(sizes: Sizes) -> list[Row]:
    """A step of one worker over S (1 / S^2 of the hidden products) and over the width."""
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
    """The sizes that were timed with the authors' release: a step of all workers, a repartition.

    A step has its share of the exchange.
    """
    measured, steps = [], sizes.steps[0]
    for network in sizes.authors:
        whole, sync = network_round(network, steps), network_round(network, 0)
        runs = [whole.run, sync.run, by_hand(network, steps)]
        of_round, seconds, hand = median_seconds(runs, sizes.repeats)
        step, what = of_round / steps, f"step of all workers, {network.name}"
        rows = [_row(what, step, hand / steps, "steps by hand", whole)]
        rows.append(_row(f"repartition, {network.name}", seconds, step, "a step"))
        if theirs := AUTHORS.get((network.features, network.hidden, network.num_subnets)):
            rows = [row | {"authors_seconds": value} for row, value in zip(rows, theirs)]
        measured += rows
    whole = sizes.authors[0]._replace(num_subnets=1)
    return [*measured, *_whole_rows(whole, steps, sizes.repeats)]


def _whole_rows(network: Network, steps: int, repeats: int) -> list[Row]:
    """A step of the whole network, plain training, by batch."""
    rows, batches = [], (BATCH, 2 * BATCH)
    rounds = [network_round(network, steps, name="single", batch=batch) for batch in batches]
    seconds = [value / steps for value in median_seconds([made.run for made in rounds], repeats)]
    for batch, made, value in zip(batches, rounds, seconds):
        what = f"step of the whole network, batch {batch}, {network.name}"
        row = _row(what, value, seconds[0], "the first", made)
        theirs = AUTHORS_WHOLE.get((network.features, network.hidden, batch))
        rows.append(row | ({"authors_seconds": theirs} if theirs else {}))
    return rows
