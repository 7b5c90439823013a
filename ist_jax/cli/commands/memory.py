"""Estimates what a device holds while a model trains over a mesh, without allocating anything.

    ist-jax memory --config FILE [--subnets 1 2 4 8] [--graph NODES EDGES FEATURES CLASSES]

Compiles initialisation, a round (of the longest phase) and evaluation from shapes, for every number
S of subnetworks, each on one device. The compiled programs say what a device holds. A machine with
too few accelerators compiles for CPU devices, whose compiler plans temporary memory differently.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.analysis.meter import training_bytes
from ist_jax.cli.architectures import ARCHITECTURES
from ist_jax.cli.builders import load_dataset
from ist_jax.cli.config import Config, ConfigError, replace
from ist_jax.cli.config.parsing import ConfigFlags, parse_with_config
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.experiment import resolve
from ist_jax.cli.records.tables import markdown
from ist_jax.cli.validation import validate
from ist_jax.core.sample_order import View
from ist_jax.core.trees import tree_bytes
from ist_jax.data import Spec, Streamed
from ist_jax.data.graph_shapes import GraphSize, graph_shapes
from ist_jax.data.splits import shared
from ist_jax.methods import Method, State
from ist_jax.tasks import Task
from ist_jax.training.evaluation import evaluate
from ist_jax.training.files import json_text, write_whole


@dataclasses.dataclass(frozen=True)
class MemoryFlags(ConfigFlags):
    """The flags of `ist-jax memory`, besides the fields of the configuration."""

    subnets: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers S of subnetworks."""
    graph: tuple[int, ...] = ()
    """NODES EDGES FEATURES CLASSES of a graph that need not be available; edges are undirected."""
    out: PathText = ""
    """Folder for memory.json."""


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
MB of one device, by the programs compiled for {device}. "State" is stored between rounds:
parameters and optimizer state. "Temporary" is what a round works on: the subnetwork, its gradients,
its optimizer state and activations. "Activations" is "temporary" minus the other three, which are
computed from shapes. "At most" is the total while a round runs. "Parameters" counts those of the
full model, 4 bytes each.
"""


def _on(sharding: jax.sharding.Sharding, tree: Any) -> Any:
    """The shapes of `tree` on the devices of `sharding`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


def _state_shapes(method: Method) -> State:
    """Shapes and shardings of the state, from the compiled initialisation."""
    key = _on(method.sharding, jax.random.key(0))
    shardings = jax.jit(method.init).lower(key).compile().output_shardings
    shapes = jax.eval_shape(method.init, key)
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
    )


def _on_one_device(tree: Any) -> int:
    shard = lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    return tree_bytes(jax.tree.map(shard, tree))


def _peak(memory: Any) -> int:
    """The bytes that a device holds while a program runs, by its compiled memory analysis."""
    arrays = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return arrays - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _memory_of_rounds(method: Method, state: State, view: View, steps: int) -> Any:
    """The compiled memory analysis of the round of the method's cycle that holds the most.

    Raises:
      ConfigError: the backend does not say how much memory its programs use.
    """
    weight_S = jax.ShapeDtypeStruct((method.num_workers,), np.float32)
    given = (state, view, view.key, _on(method.sharding, weight_S))
    rounds: list[Any] = [
        method.round.lower(*given, steps=steps, turn=turn).compile().memory_analysis()
        for turn in method.programs
    ]
    if None in rounds:
        raise ConfigError(
            f"the compiler of {jax.devices()[0].device_kind} does not say how much memory its "
            "programs use: set JAX_PLATFORMS=cpu"
        )
    return max(rounds, key=_peak)


def measure(
    method: Method,
    task: Task,
    arrays: Any,
    evaluated: Any,
    spec: Spec,
    steps: int,
    eval_batch_size: int,
) -> dict[str, Any]:
    """The bytes that one device holds, by programs compiled from shapes.

    Args:
      method: has one subnetwork on every device.
      task: batch, loss and metrics.
      arrays: of the training split, or their shapes.
      evaluated: arrays of the split that is evaluated, or their shapes. A graph in one cluster is
        complete there, but not in training.
      spec: of the data.
      steps: local steps of the round; all use the same memory.
      eval_batch_size: examples of an evaluation batch.

    Returns:
      The numbers of a row of the table; in bytes, except the numbers of subnetworks and parameters.

    Raises:
      ConfigError: the backend does not say how much memory its programs use.
    """
    here = lambda tree: _on(method.sharding, tree)
    state, key = _state_shapes(method), here(jax.random.key(0))
    num_subnets = method.num_workers
    view = View(here(arrays), here(shared(np.zeros(spec.num_train, bool), num_subnets)), key)
    round = _memory_of_rounds(method, state, view, steps)

    def evaluate_test(state: State, arrays: Any) -> Any:
        splits = {"test": arrays}
        return evaluate(
            method, task, state, splits, None, batch_size=eval_batch_size, subnets=False
        )

    evaluation = jax.jit(evaluate_test).lower(state, here(evaluated)).compile().memory_analysis()
    return {
        "S": num_subnets,
        "parameters": method.costs.model_parameters,
        "subnet_parameters": method.costs.device_parameters,
        "state": _on_one_device(state.stored),
        "data": _on_one_device(view.arrays),
        "temporary": round.temp_size_in_bytes,
        "activations": max(0, round.temp_size_in_bytes - training_bytes(method, state)),
        "peak": _peak(round),
        "evaluation_peak": _peak(evaluation),
    }


def rows(config: Config, subnets: Sequence[int], size: GraphSize | None) -> list[dict[str, Any]]:
    """`measure` for every S.

    Raises:
      ConfigError: the model does not split into so many subnetworks, or there are too few devices.
    """
    if config.data.image_size:
        raise ConfigError(
            f"data.image_size={config.data.image_size} streams the data, whose shapes are then "
            "unknown: use 0"
        )
    if size is None:
        data = load_dataset(config)
        if isinstance(data, Streamed):
            raise ConfigError(
                f"data.dir={config.data.dir!r} is streamed, so its shapes are unknown: use smaller "
                "data"
            )
        spec, arrays, evaluated = data.spec, data.arrays("train"), data.arrays("test")
    else:
        spec, arrays = _graph_shapes(config, size)
        evaluated = arrays
    measured = []
    for number in subnets:
        on_mesh = replace(config, num_subnets=number, placement="sharded", num_devices=number)
        experiment = resolve(on_mesh, spec=spec)
        method, task = experiment.longest.method, experiment.task
        size_B = experiment.config.eval_batch_size
        measured.append(measure(method, task, arrays, evaluated, spec, 2, size_B))
    return measured


def _graph_shapes(config: Config, size: GraphSize) -> tuple[Spec, Any]:
    graph = ARCHITECTURES[config.decomposition].graph
    if graph is None:
        raise ConfigError(
            f"--graph is for graph networks, and model.name={config.model.name!r} is none: leave "
            "it out"
        )
    if config.data.layer_nodes or config.data.projection:
        raise ConfigError(
            "--graph stands for a full graph with all of its features: leave out data.layer_nodes "
            "and data.projection"
        )
    return graph_shapes(size, graph(config))


def cells(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table of `measured`, by row."""
    names = ("state", "data", "temporary", "activations", "peak", "evaluation_peak")
    return [
        [str(row["S"]), f"{row['parameters']:,}", f"{row['subnet_parameters']:,}"]
        + [f"{row[name] / 1e6:,.1f}" for name in names]
        for row in measured
    ]


def _with_devices(count: int) -> None:
    """Makes `count` CPU devices if JAX is not initialised yet; accelerators stay as they are."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def memory(argv: Sequence[str]) -> None:
    """Compiles, prints and writes. Raises ConfigError if an argument is wrong."""
    flags, config = parse_with_config(MemoryFlags, argv, __doc__)
    for name, numbers, wrong in (
        ("subnets", flags.subnets, not flags.subnets),
        ("graph", flags.graph, len(flags.graph) not in (0, 4)),
    ):
        if wrong or min(numbers, default=1) < 1:
            what = "4 numbers" if name == "graph" else "numbers"
            shown = " ".join(map(str, numbers))
            raise ConfigError(f"--{name} is {what} above 0, not {shown!r}")
    size = GraphSize(*flags.graph) if flags.graph else None
    _with_devices(max(flags.subnets))
    if size and not config.data.dir:  # a graph that is not available has no folder
        config = replace(config, data=dict(dir="unused"))
    _show(rows(validate(config), flags.subnets, size), flags.out)


def _show(measured: Sequence[dict[str, Any]], out: str) -> None:
    kind = jax.devices()[0].device_kind
    note = ASSUMPTIONS.format(device=f"{kind} devices, JAX {jax.__version__}")
    print(f"{markdown(HEADER, cells(measured))}\n{note}", end="")
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "header": HEADER, "rows": cells(measured), "bytes": list(measured), "note": note
        }  # fmt: skip
        write_whole(folder / "memory.json", json_text(content, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: memory(argv))
