"""Times rounds on this machine, as ratios within one run.

    ist-jax benchmark rounds [--quick] [--out DIR]

Rounds of IST are compared with hand-written local steps, with their matrix products alone, and with
data parallel in its best form on one device. Further rows are synchronisations, costs over S and
width, a mesh of 8 CPU devices (in another process), and the sizes of the authors' release. Only
ratios within one run are comparable. Expect ten minutes on 2 CPU cores, one with --quick.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

from ist_jax.cli.benchmarks import rows
from ist_jax.cli.benchmarks.machine import described, machine
from ist_jax.cli.benchmarks.rows import FULL, QUICK, Row, Sizes
from ist_jax.cli.config import ConfigError
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.training.files import json_text, write_whole


@dataclasses.dataclass(frozen=True)
class RoundsFlags:
    """The flags of `ist-jax benchmark rounds`."""

    quick: bool = False
    """Small sizes; takes a minute."""
    out: PathText = ""
    """Folder for benchmark.json and benchmark.md."""
    part: Literal["all", "mesh"] = "all"
    """mesh: only the rows of a mesh, printed as JSON."""


def _on_mesh(quick: bool) -> list[Row]:
    """The rows of a mesh of 8 CPU devices, from another process that has them."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "ist_jax", "benchmark", "rounds", "--part=mesh"]
    command += ["--quick"] if quick else []
    # standard error is not captured: errors are printed as they occur
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise ConfigError(
            f"the part on a mesh of 8 CPU devices ended with status {ended.returncode}"
        )
    return json.loads(ended.stdout.splitlines()[-1])


def _mesh_part(sizes: Sizes) -> list[Row]:
    on_mesh = [*rows.method_rows(sizes, "sharded"), *rows.sync_rows(sizes, "sharded")]
    return [*on_mesh, *rows.packing_rows(sizes)]


def _more(row: Row) -> str:
    more = []
    if "compilation" in row:
        more.append(f"compiled in {row['compilation']:.1f} s")
    if "exponent" in row:
        more.append(f"grows with the power {row['exponent']:.2f}")
    if "authors_seconds" in row:
        more.append(f"authors' release, on another day: {1e3 * row['authors_seconds']:.0f} ms")
    if "bytes_per_device" in row:
        times = row["bytes_per_device"] / row["lower_bound"]
        more.append(f"{row['bytes_per_device']:,.0f} bytes per device, {times:.2f} x the bound")
    return "; ".join(more)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| what | ms | ratio | to | more |", "| --- | ---: | ---: | --- | --- |"]
    for row in rows:
        cells = [row["what"], f"{1e3 * row['seconds']:,.2f}", f"{row['ratio']:.3f}", row["to"]]
        lines.append(f"| {' | '.join([*cells, _more(row)])} |")
    return "\n".join(lines) + "\n"


def _benchmark(flags: RoundsFlags) -> None:
    sizes = QUICK if flags.quick else FULL
    if flags.part == "mesh":
        print(json_text(_mesh_part(sizes)))
        return
    measured = [
        *rows.round_rows(sizes),
        *rows.method_rows(sizes, "auto"),
        *rows.sync_rows(sizes, "auto"),
        *rows.scaling_rows(sizes),
        *rows.author_rows(sizes),
        *_on_mesh(flags.quick),
    ]
    print(f"{markdown(measured)}\n{described(machine())}")
    if flags.out:
        folder, content = pathlib.Path(flags.out), {"machine": machine(), "rows": measured}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "benchmark.json", json_text(content, indent=1) + "\n")
        write_whole(folder / "benchmark.md", markdown(measured))


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _benchmark(parse(RoundsFlags, argv, __doc__)))
