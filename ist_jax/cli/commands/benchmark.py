"""`ist-jax benchmark`: three benchmarks, each a module of `cli.benchmarks`."""

from collections.abc import Sequence

from ist_jax.cli.main import dispatch

BENCHMARKS = {
    "rounds": "rounds of IST against hand-written steps, matrix products and data parallel",
    "graphs": "sub-GCNs against full GCNs on one device",
    "convolutions": "this library's gradients of convolutions, and placements of sub-ResNets",
}


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return dispatch("ist-jax benchmark", BENCHMARKS, "ist_jax.cli.benchmarks", argv[1:])
