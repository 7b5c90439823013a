"""What a device holds while a model trains over a mesh, before anything is trained or even allocated:

    python -m ist_jax.cli.commands.memory --config=FILE [--config.x=y] [--subnets=1,2,4,8] [--graph=NODES,EDGES,FEATURES,CLASSES]
        [--out=DIR]

Compiles initialisation, round (of the longest phase) and evaluation of the config for every number S of subnetworks, each
on a device of its own, from shapes alone, and reads what a device holds from the compiled programs. On a machine without so
many accelerators it compiles for CPU devices, whose compiler plans temporary memory in its own way. The data are those of the
config, or, with
--graph, of a graph of so many nodes, undirected edges, features and classes that is not at hand. Prints a table; --out takes
memory.json.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.analysis.meter import worked_on_bytes
from ist_jax.cli import builders
from ist_jax.cli.architectures import ARCHITECTURES
from ist_jax.cli.commands import run
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.exit_status import Parser, RawText, exit_status
from ist_jax.cli.records.tables import markdown
from ist_jax.cli.validation import validate
from ist_jax.core.sample_order import View
from ist_jax.core.trees import tree_bytes
from ist_jax.data import Spec
from ist_jax.data.graph_shapes import GraphSize, graph_shapes
from ist_jax.data.splits import shared
from ist_jax.methods import Method as Algorithm
from ist_jax.methods.base import State
from ist_jax.tasks import Task
from ist_jax.training.evaluation import evaluate
from ist_jax.training.files import write_whole

SUBNETS = (1, 2, 4, 8)
HEADER = [
    "S",
    "parameters",
    "of one subnetwork",
    "state",
    "data",
    "temporary",
    "activations",
    "at most",
    "at most, evaluation",
]
ASSUMPTIONS = """\
MB of one device, by the programs compiled for {device}. State is what rests between rounds: parameters and what is kept of the
optimizer; temporary is what a round works on: the subnetwork, its gradients and optimizer state, activations; activations are
what remains of that without the others, which are arithmetic; at most is all together while a round runs. The parameters are
those of the whole model, 4 bytes each.
"""


def _on(sharding: jax.sharding.Sharding, tree: Any) -> Any:
    """The shapes of `tree` on the devices of `sharding`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


def _state_shapes(algorithm: Algorithm) -> State:
    """The state as it lies, which the compiled initialisation knows."""
    key = _on(algorithm.sharding, jax.random.key(0))
    laid = jax.jit(algorithm.init).lower(key).compile().output_shardings
    shapes = jax.eval_shape(algorithm.init, key)
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, laid
    )


def _on_one_device(tree: Any) -> int:
    shard = lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    return tree_bytes(jax.tree.map(shard, tree))


def measure(
    algorithm: Algorithm,
    task: Task,
    arrays: Any,
    evaluated: Any,
    spec: Spec,
    steps: int,
    eval_batch_size: int,
) -> dict[str, Any]:
    """What one device holds, in bytes, by programs compiled from shapes.

    Args:
      algorithm: one subnetwork on every device.
      task: its batch, loss and metrics.
      arrays: of the training data, or their shapes.
      evaluated: of the data that are evaluated; a graph in one cluster is whole there, and not in training.
      spec: of the data.
      steps: local steps of the round; they share their memory.
      eval_batch_size: examples of one batch of an evaluation.
    """
    here = lambda tree: _on(algorithm.sharding, tree)
    state, key = _state_shapes(algorithm), here(jax.random.key(0))
    num_subnets = algorithm.num_workers
    view = View(here(arrays), here(shared(np.zeros(spec.num_train, bool), num_subnets)), key)
    weight_S = here(jax.ShapeDtypeStruct((num_subnets,), np.float32))
    round = (
        algorithm.round.lower(state, view, key, weight_S, steps=steps).compile().memory_analysis()
    )
    whole = lambda state, arrays: evaluate(
        algorithm, task, state, {"test": arrays}, None, batch_size=eval_batch_size, subnets=False
    )
    evaluation = jax.jit(whole).lower(state, here(evaluated)).compile().memory_analysis()
    if round is None:
        raise ConfigError(
            f"the compiler of {jax.devices()[0].device_kind} does not say what its programs hold"
        )
    peak = lambda found: (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    return {
        "S": num_subnets,
        "parameters": algorithm.costs.model_parameters,
        "subnet_parameters": algorithm.costs.device_parameters,
        "state": _on_one_device((state.store, state.opt_state, state.outer_state, state.indices)),
        "data": _on_one_device(view.arrays),
        "temporary": round.temp_size_in_bytes,
        "activations": max(0, round.temp_size_in_bytes - worked_on_bytes(algorithm, state)),
        "peak": peak(round),
        "evaluation_peak": peak(evaluation),
    }


def rows(config: Config, subnets: Sequence[int], size: GraphSize | None) -> list[dict[str, Any]]:
    """`measure` for every S.

    Raises:
      ConfigError: the model does not fall into so many subnetworks, or there are too few devices.
    """
    graph = ARCHITECTURES[config.decomposition].graph
    if size is not None and graph is None:
        raise ConfigError(
            f"--graph is of graph networks, and model.name={config.model.name!r} is none"
        )
    if size is not None and (config.data.layer_nodes or config.data.projection):
        raise ConfigError(
            "--graph has whole features of a whole graph: leave out data.layer_nodes and data.projection"
        )
    if config.data.image_size:
        raise ConfigError(
            f"data.image_size={config.data.image_size}: a streamed set has no shapes before it is read; use 0"
        )
    if size is None:
        data = builders.dataset(config)
        spec, arrays, evaluated = data.spec, data.arrays("train"), data.arrays("test")
    else:
        spec, arrays = graph_shapes(size, graph(config))
        evaluated = arrays
    found = []
    for number in subnets:
        one = validate(
            dataclasses.replace(config, num_subnets=number, placement="sharded", num_devices=number)
        )
        phases, task = builders.phases(one, spec)
        longest = max(phases, key=lambda phase: phase.samples)
        found.append(measure(longest.method, task, arrays, evaluated, spec, 2, one.eval_batch_size))
    return found


def cells(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as a table has them."""
    in_mb = lambda row, *names: [f"{row[name] / 1e6:,.1f}" for name in names]
    entries = lambda row: [str(row["S"]), f"{row['parameters']:,}", f"{row['subnet_parameters']:,}"]
    return [
        entries(row)
        + in_mb(row, "state", "data", "temporary", "activations", "peak", "evaluation_peak")
        for row in found
    ]


def _numbers(name: str, text: str, count: int | None = None) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.isdigit()]
    if not numbers or min(numbers) < 1 or len(numbers) != (count or len(text.split(","))):
        what = f"{count} numbers" if count else "a list of numbers"
        raise ConfigError(f"--{name} is {what} above 0, with commas between, not {text!r}")
    return numbers


def _with_devices(count: int) -> None:
    """CPU devices, if JAX has not begun; accelerators are as many as there are."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def _memory(argv: Sequence[str]) -> None:
    parser = Parser(
        prog="ist_jax.cli.commands.memory",
        description=__doc__,
        formatter_class=RawText,
        allow_abbrev=False,
    )
    parser.add_argument("--subnets", default=",".join(map(str, SUBNETS)))
    parser.add_argument("--graph", default="")
    parser.add_argument("--out", default="")
    own, rest = parser.parse_known_args(argv)
    subnets = _numbers("subnets", own.subnets)
    size = GraphSize(*_numbers("graph", own.graph, 4)) if own.graph else None
    _with_devices(max(subnets))
    given = (
        ["--config.data.dir=unused"] if size else []
    )  # data that are not at hand are not looked for
    config = run.parse([*given, *rest, "--workdir=unused"]).config
    found = rows(config, subnets, size)
    _show(found, own.out)


def _show(found: Sequence[dict[str, Any]], out: str) -> None:
    kind = jax.devices()[0].device_kind
    note = ASSUMPTIONS.format(device=f"{kind} devices, JAX {jax.__version__}")
    print(f"{markdown(HEADER, cells(found))}\n{note}", end="")
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"header": HEADER, "rows": cells(found), "bytes": list(found), "note": note}
        write_whole(folder / "memory.json", json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    if any(argument in ("--help", "-h") for argument in argv[1:]):
        print(__doc__)
        return 0
    return exit_status(lambda: _memory(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
