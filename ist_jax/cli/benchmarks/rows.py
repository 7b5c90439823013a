"""The rows of `ist-jax benchmark rounds`: what is timed, and what it is compared with."""

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
    send_blocks,
)
from ist_jax.core.placement import make_placement

Row = dict[str, Any]


class Sizes(NamedTuple):
    """The sizes of what is timed.

    Attributes:
      network: of most rows.
      subnets: numbers S of subnetworks.
      widths: of the hidden layers.
      authors: the networks that were timed with the authors' release.
      blocks: bytes that a device sends in one collective.
      steps: numbers of local steps of a round.
      repeats: of every timing.
    """

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
# (features, hidden, S) -> seconds of a step of all workers, and of a repartition, by the authors'
# PyTorch release: torch 2.13, one thread per worker, all at once on 2 cores, batch 128 each;
# medians of three runs, measured on another day
AUTHORS = {
    (4096, (4096,), 2): (0.051, 0.119),
    (4096, (4096,), 4): (0.041, 0.157),
    (4096, (4096, 4096), 2): (0.080, 0.342),
    (4096, (4096, 4096), 4): (0.056, 0.292),
}
# (features, hidden, batch) -> seconds of a step of their full network, in one process, 2 threads
AUTHORS_FULL: dict[tuple[int, tuple[int, ...], int], float] = {
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
    """Rounds against hand-written steps, and these against their matrix products alone."""
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
    """IST against data parallel, per sample. On one device, data parallel has its best form."""
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
    """Synchronisations against a local step of all workers, with the bytes they send."""
    rows, network, steps = [], sizes.network, sizes.steps[0]
    for home_sharded in (False, True):
        sync, full_round = (
            network_round(network, n, place=place, home_sharded=home_sharded) for n in (0, steps)
        )
        seconds, round_seconds = median_seconds([sync.run, full_round.run], sizes.repeats)
        way = "all groups home-sharded" if home_sharded else "holder-sharded"
        what = f"synchronisation, {way}, {place}, {network.name}"
        costs, row = sync.method.costs, _row(what, seconds, round_seconds / steps, "a step", sync)
        sent = {"bytes_per_device": costs.bytes_per_sync, "lower_bound": costs.lower_bound}
        rows.append(row | sent)
    return rows


def packing_rows(sizes: Sizes) -> list[Row]:
    """Small leaves in one collective, against one collective each.

    `exchange.transport` packs leaves below a size that these rows justify.
    """
    rows = []
    for num_bytes in sizes.blocks:
        runs = [send_blocks(num_bytes, LEAVES, packed) for packed in (True, False)]
        packed, separate = median_seconds(runs, 5 * sizes.repeats)
        what = f"{LEAVES} leaves of {num_bytes:,} bytes per device, packed"
        rows.append(_row(what, packed, separate, "one collective each"))
    return rows


def scaling_rows(sizes: Sizes) -> list[Row]:
    """A step of one worker over S, which divides its hidden products by S^2, and over the width."""
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
    """A step of all workers, and a repartition, in the sizes timed with the authors' release.

    A step has its share of the exchange.
    """
    measured, steps = [], sizes.steps[0]
    for network in sizes.authors:
        full_round, sync = network_round(network, steps), network_round(network, 0)
        runs = [full_round.run, sync.run, by_hand(network, steps)]
        round_seconds, seconds, hand = median_seconds(runs, sizes.repeats)
        step, what = round_seconds / steps, f"step of all workers, {network.name}"
        rows = [_row(what, step, hand / steps, "steps by hand", full_round)]
        rows.append(_row(f"repartition, {network.name}", seconds, step, "a step"))
        if theirs := AUTHORS.get((network.features, network.hidden, network.num_subnets)):
            rows = [row | {"authors_seconds": value} for row, value in zip(rows, theirs)]
        measured += rows
    full = sizes.authors[0]._replace(num_subnets=1)
    return [*measured, *_full_rows(full, steps, sizes.repeats)]


def _full_rows(network: Network, steps: int, repeats: int) -> list[Row]:
    """A step of the full network on one worker, by batch size."""
    rows, batches = [], (BATCH, 2 * BATCH)
    rounds = [network_round(network, steps, name="single", batch=batch) for batch in batches]
    seconds = [value / steps for value in median_seconds([made.run for made in rounds], repeats)]
    for batch, made, value in zip(batches, rounds, seconds):
        what = f"step of the full network, batch {batch}, {network.name}"
        row = _row(what, value, seconds[0], "the first", made)
        theirs = AUTHORS_FULL.get((network.features, network.hidden, batch))
        rows.append(row | ({"authors_seconds": theirs} if theirs else {}))
    return rows
